"""Recipe -> parts -> engine: the only place where parts meet.

    parts = build_parts(recipe)                what the recipe describes, on the CPU, nothing read yet
    prepare(parts, parallel)                   on the device; compiled, replicated or divided as the recipe says
    engine = build_engine(parts, parallel)     with optimizer, batches and schedule, ready to `fit`

`workbench.runs.train` goes on from there: it resumes, opens the metrics and adds the callbacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from workbench.contracts import as_encoder, as_fusion, as_objective, refuse_unreadable_sides
from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import EvaluationModel, divide
from workbench.engine import Engine
from workbench.errors import RecipeError
from workbench.first_law import refuse_mixing_encoder, refuse_mixing_fusion
from workbench.loading.draws import build_data
from workbench.loading.feed import Feed, epoch_steps
from workbench.model import Model
from workbench.recipe.duration import Span
from workbench.recipe.schema import Recipe
from workbench.recipe.sections import EncoderSpec, TrainSection
from workbench.scoring.embedding import Embedder, evaluate
from workbench.scoring.names import refuse_unknown_metric
from workbench.seeds import seed_torch
from workbench.training.metrics import Criterion, Metrics
from workbench.training.microbatch import TrainedModel
from workbench.training.optim import adamw, layer_lr_scales
from workbench.training.schedule import Schedule
from workbench.types import Checks, ClassTable, Context, Data, Encoder, Fusion, Modality, Objective, Side, Transform


@dataclass
class Parts:
    """The parts that a recipe describes, before anything is trained."""

    recipe: Recipe
    data: Any
    model: Model
    objective: Objective
    trained: nn.Module = field(init=False)
    """the model as the loop calls it; `prepare` wraps it for several processes"""
    evaluated: EvaluationModel = field(init=False)
    """the model as evaluations run it; `prepare` gives a divided one a copy"""
    tables: dict[str, ClassTable] = field(default_factory=dict)
    """what the last evaluation said class by class, under the names of its evaluators"""

    def __post_init__(self) -> None:
        self.trained, self.evaluated = TrainedModel(self.model), EvaluationModel(self.model)

    def steps(self, span: Span) -> int:
        """Count the optimizer steps of a duration. Raises RecipeError when the data holds less than a batch."""
        batch = self.recipe.train.batch
        return span.steps(batch, epoch_steps(len(self.data), batch))

    def transforms(self, train: bool) -> dict[str, Transform]:
        """Give for each modality the map of a raw item to a tensor."""
        return {modality: encoder.transform(train) for modality, encoder in self.model.encoders.items()}

    def evaluate(self, device: torch.device, evaluators: dict[str, Any] | None = None) -> Iterator[tuple[str, float]]:
        """Yield facts of the recipe's evaluators (or of others) about the model as it is now."""
        chosen = self.recipe.eval.evaluators if evaluators is None else evaluators
        self.tables.clear()
        context = replace(self.context(device), report=self.tables.__setitem__)
        return evaluate({key: spec.build() for key, spec in chosen.items()}, context)

    def context(self, device: torch.device) -> Context:
        """Make what evaluators and pictures see: it follows the model as it trains."""
        embedder = Embedder(self.evaluated.model, self.transforms(train=False), device)
        return Context(embedder, self.objective, self.data, self.recipe.train.batch, self.recipe.seed)


def build_parts(recipe: Recipe, *, pretrained: bool = True, training: bool = True) -> Parts:
    """Build data set, model and objective. Raises RecipeError where they do not fit each other. Reads no data.

    Every part draws its initial weights from (seed, its name), so that arms of a comparison share what they share.
    `pretrained` and `training` are those of `build_model`.
    """
    data = build_data(recipe)
    unknown = set(recipe.model.encoders) - set(data.modalities)
    if unknown:
        raise RecipeError(f"model.encoders has {sorted(unknown)}, the data has {list(data.modalities)}")
    objective = build_objective(recipe)
    if training:
        _check_evaluators(recipe, objective, data)
        for callback in recipe.callbacks.values():  # one that refuses its settings, or lacks its package, says so now
            callback.build()
    model = build_model(recipe, data, objective, pretrained=pretrained, training=training)
    return Parts(recipe, data, model, objective)


def _check_evaluators(recipe: Recipe, objective: Objective, data: Data) -> None:
    """Raise RecipeError for an evaluator that would fail, or give a number that says nothing, after the first steps."""
    evaluators = {key: spec.build() for key, spec in recipe.eval.evaluators.items()}
    for key, evaluator in evaluators.items():
        if isinstance(evaluator, Checks):
            try:
                evaluator.check(objective, data)
            except ValueError as error:
                raise RecipeError(f"eval.{key}: {error}") from None
    if recipe.eval.best:
        refuse_unknown_metric(Criterion.parse(recipe.eval.best).metric, evaluators, objective)


def build_objective(recipe: Recipe) -> Objective:
    """Build the objective. Raises RecipeError where it does not fit the encoders, or lacks a method."""
    seed_torch(recipe.seed, "objective")
    objective = as_objective(recipe.objective.build(tuple(recipe.model.encoders)), recipe.objective.name)
    if objective.least_dim > recipe.model.dim:
        raise RecipeError(
            f"the objective contrasts the first {objective.least_dim} dimensions (matryoshka), and model.dim is "
            f"{recipe.model.dim}: name prefixes of at most that"
        )
    return objective


def build_model(
    recipe: Recipe, data: Any, objective: Objective, *, pretrained: bool = True, training: bool = True
) -> Model:
    """Build the model, for these data and every side that this objective may ask for.

    Args:
        recipe: what to build.
        data: its data set, of which only the modalities are read.
        objective: its objective, of which only `all_sides` is read.
        pretrained: start from the published weights that an encoder names. Without them the model waits for those of
            a checkpoint, and the published file need not exist any more.
        training: refuse what must not be trained: a model that is no map of single samples.

    Raises RecipeError for parts that do not fit each other, and for what `first_law` refuses.
    """
    if taken := [m for m in recipe.model.encoders if hasattr(nn.ModuleDict(), m)]:
        raise RecipeError(f"model.encoders.{taken[0]}: torch means something else by this name: call it {taken[0]}_")
    encoders = {m: _build_encoder(recipe, data, m, pretrained) for m in recipe.model.encoders}
    for modality, encoder in encoders.items():
        try:
            encoder.borrow(encoders, data.modalities)
        except ValueError as error:
            raise RecipeError(f"model.encoders.{modality}: {error}") from None
    if training:
        _refuse_mixing_encoders(recipe, data, encoders)
    heads = _build_heads(recipe, encoders, objective.all_sides)
    return Model(encoders, heads, _build_fusion(recipe, encoders, objective.all_sides, training))


def _build_encoder(recipe: Recipe, data: Data, modality: str, pretrained: bool) -> Encoder:
    spec = recipe.model.encoders[modality]
    seed_torch(recipe.seed, "encoder", modality)
    encoder = as_encoder(spec.build(data.modalities[modality], recipe.model.dim), spec.name)
    if pretrained:
        try:
            encoder.load_pretrained()
        except ValueError as error:
            raise RecipeError(f"encoder '{spec.name}': {error}") from error
    return encoder


def _refuse_mixing_encoders(recipe: Recipe, data: Data, encoders: dict[str, Encoder]) -> None:
    """Raise RecipeError for an encoder that is no map of single samples; one that another lends is asked there."""
    for modality, encoder in encoders.items():
        if encoder.holder is not encoder:
            continue
        spec, given = recipe.model.encoders[modality], data.modalities[modality]

        def make(spec: EncoderSpec = spec, given: Modality = given) -> Encoder:
            return as_encoder(spec.build(given, recipe.model.dim), spec.name)

        refuse_mixing_encoder(f"model.encoders.{modality} ({spec.name})", encoder, given, make if spec.is_own else None)


def _build_heads(recipe: Recipe, encoders: dict[str, Encoder], sides: Sequence[Side]) -> dict[str, nn.Module]:
    """Build linear heads on pooled features: for every plain side with `head: linear`, and for every second head.

    Raises RecipeError for a plain side without a head whose encoder does not end in the shared space.
    """
    heads: dict[str, nn.Module] = {}
    for side in sides:
        if side.fused:
            continue
        encoder = encoders[side.members[0]]
        if side.head or recipe.model.head == "linear":
            seed_torch(recipe.seed, "head", str(side))
            heads[str(side)] = nn.Linear(encoder.width, recipe.model.dim)
        elif not encoder.has_projection:
            raise RecipeError(
                f"model.encoders.{side.members[0]} hands on {encoder.width} numbers, and model.dim is "
                f"{recipe.model.dim}: set model.head=linear"
            )
    return heads


def _build_fusion(recipe: Recipe, encoders: dict[str, Encoder], sides: Sequence[Side], training: bool) -> Fusion | None:
    """Build the fusion module, or none when no term asks for a fused side: then it costs nothing at all."""
    fused = list(dict.fromkeys(Side(s.members, True) for s in sides if s.fused))
    if not fused:
        return None
    spec = recipe.model.fusion
    if spec is None:
        raise RecipeError(
            f"the objective contrasts {', '.join(map(str, fused))}: say which module fuses, as model.fusion: mlp, or "
            "transformer where towers have tokens, as ITO does"
        )
    given = (fused, {m: encoder.width for m, encoder in encoders.items()}, recipe.model.dim)
    seed_torch(recipe.seed, "fusion")

    def make() -> Fusion:
        return as_fusion(spec.build(*given), spec.name)

    fusion = make()
    refuse_unreadable_sides(fusion, spec.name, fused, encoders, {m: e.name for m, e in recipe.model.encoders.items()})
    if training:
        refuse_mixing_fusion(f"model.fusion ({spec.name})", fusion, *given, make if spec.is_own else None)
    return fusion


def prepare(parts: Parts, parallel: Parallel) -> Parts:
    """Move the parts to this process's device, compile, and replicate or divide the model; returns the same parts.

    An optimizer has to be made afterwards: divided parameters are other objects. Raises ValueError when the processes
    do not come out even.
    """
    parts.model.to(parallel.device)
    parts.objective.to(parallel.device)
    if parts.recipe.train.compile:
        compile_blocks(parts.model)
    wrap_for_training(parts, parallel)
    return parts


def compile_blocks(model: Model) -> None:
    """Compile a repeated layer once for all its copies; an encoder or fusion without such layers is compiled whole.

    Compiled are the shapes of training alone, of which there are one or, with a smaller last micro-batch, two: those of
    evaluations would be compiled one after the other, so evaluations run eagerly (`Embedder`).
    """
    for module in (*{e.holder: None for e in model.encoders.values()}, *([model.fusion] if model.fusion else [])):
        for part in module.repeated() or [module]:
            part.compile(dynamic=False)


def wrap_for_training(parts: Parts, parallel: Parallel) -> None:
    """Have gradients averaged, or weights divided, as the recipe's strategy says."""
    recipe = parts.recipe
    if recipe.parallel.strategy == "ddp":
        parts.trained = parallel.wrap_in_ddp(parts.trained)
        return
    mesh = parallel.mesh(recipe.parallel.copies)
    # the first process evaluates alone, and a forward of divided weights waits for all: it needs a second model
    lead = parallel.rank == 0
    copy = build_model(recipe, parts.data, parts.objective, pretrained=False, training=False) if lead else None
    parts.evaluated = EvaluationModel(parts.model, divided=True, copy=copy)
    divide(parts.model, mesh, recipe.train.precision)


def build_optimizer(parts: Parts) -> torch.optim.Optimizer:
    """Make AdamW over what is not frozen. Raises RecipeError where that is nothing, or no layer is found."""
    train, encoders = parts.recipe.train, parts.model.encoders
    rates = {"lr": train.lr, "weight_decay": train.weight_decay, "betas": train.betas, "eps": train.eps}
    try:
        scales = layer_lr_scales(encoders, train.layer_decay) if train.layer_decay else None
        return adamw(parts.model, parts.objective, **rates, lr_scales=scales)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def build_schedule(parts: Parts, train: TrainSection) -> Schedule:
    """Make the schedule that a recipe's `train` section asks for on these data."""
    return Schedule(train.lr, parts.steps(train.warmup), parts.steps(train.schedule.for_ or train.for_))


def build_engine(parts: Parts, parallel: Parallel, metrics: Metrics | None = None) -> Engine:
    """Put the parts into an engine without callbacks, which keeps its metrics in memory unless it gets others.

    Nothing is read, moved or started: `prepare` comes before, a resume and `runs.callbacks` after. Raises RecipeError.
    """
    recipe, train = parts.recipe, parts.recipe.train
    if train.batch % parallel.world:
        raise RecipeError(
            f"train.batch ({train.batch}) must be a multiple of the number of processes ({parallel.world})"
        )
    feed = Feed(
        parts.transforms(train=True), train.batch, recipe.seed, parallel.rank, parallel.world, recipe.parallel.workers
    )
    return Engine(
        parts.model,
        parts.trained,
        parts.evaluated,
        parts.objective,
        build_optimizer(parts),
        partial(parts.data.batches, feed=feed),
        parallel,
        metrics or Metrics(),
        steps=parts.steps(train.for_),
        batch=train.batch,
        schedule=build_schedule(parts, train),
        microbatch=train.microbatch and max(1, train.microbatch // parallel.world),
        clip=train.clip,
        precision=train.precision,
        seed=recipe.seed,
        log_every=parts.steps(recipe.log.every),
        recipe=recipe.as_dict(),
    )
