"""Recipe -> parts -> engine: the only place where parts meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from workbench.callbacks.evaluation import Evaluation
from workbench.callbacks.nan_guard import NaNGuard
from workbench.contracts import as_encoder, as_fusion, as_objective, refuse_unreadable_sides
from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import Whole, divide
from workbench.engine import Engine
from workbench.errors import RecipeError
from workbench.first_law import refuse_mixing_encoder, refuse_mixing_fusion
from workbench.loading.feed import Feed, epoch_steps
from workbench.model import Model
from workbench.recipe.duration import Span
from workbench.recipe.schema import Recipe
from workbench.scoring.embedding import Embedder, evaluate
from workbench.seeds import seed_torch
from workbench.training.allocator import keep_memory
from workbench.training.metrics import Metrics
from workbench.training.microbatch import Embedding
from workbench.training.optim import adamw, layer_lr_scales
from workbench.types import Context, Encoder, Fusion, Objective, Side, Transform


@dataclass
class Parts:
    """What a recipe describes, before anything is trained."""

    recipe: Recipe
    data: Any
    model: Model
    objective: Objective
    whole: Whole = field(init=False)
    """what is evaluated: the model, or a copy of one whose weights are divided"""

    def __post_init__(self) -> None:
        self.whole = Whole(self.model)

    def steps(self, span: Span) -> int:
        """A duration in optimizer steps. Raises RecipeError when the data holds less than a batch."""
        batch = self.recipe.train.batch
        return span.steps(batch, epoch_steps(len(self.data), batch))

    def transforms(self, train: bool) -> dict[str, Transform]:
        """{modality: raw item -> tensor}"""
        return {modality: encoder.transform(train) for modality, encoder in self.model.encoders.items()}

    def evaluate(self, parallel: Parallel, evaluators: dict[str, Any] | None = None) -> Iterator[tuple[str, float]]:
        """Facts of the recipe's evaluators (or of others) about the model as it is now."""
        chosen = self.recipe.eval.evaluators if evaluators is None else evaluators
        return evaluate({key: spec.build() for key, spec in chosen.items()}, self.context(parallel))

    def context(self, parallel: Parallel) -> Context:
        """What evaluators and pictures see: it follows the model as it trains."""
        embedder = Embedder(self.whole.model, self.transforms(train=False), parallel.device)
        return Context(embedder, self.objective, self.data, self.recipe.train.batch, self.recipe.seed)


def build_parts(recipe: Recipe, *, pretrained: bool = True, training: bool = True) -> Parts:
    """Data set, model and objective. Raises RecipeError where they do not fit each other. Reads no data.

    Every part draws its initial weights from (seed, its name), so that arms of a comparison share what they share.
    `pretrained` and `training` are those of `build_model`.
    """
    data = recipe.data.build()
    unknown = set(recipe.model.encoders) - set(data.modalities)
    if unknown:
        raise RecipeError(f"model.encoders has {sorted(unknown)}, the data has {list(data.modalities)}")
    objective = build_objective(recipe)
    model = build_model(recipe, data, objective, pretrained=pretrained, training=training)
    return Parts(recipe, data, model, objective)


def build_objective(recipe: Recipe) -> Objective:
    """The recipe's objective, for its encoders. Raises RecipeError where these do not fit, or it lacks a method."""
    seed_torch(recipe.seed, "objective")
    return as_objective(recipe.objective.build(tuple(recipe.model.encoders)), recipe.objective.name)


def build_model(
    recipe: Recipe, data: Any, objective: Objective, *, pretrained: bool = True, training: bool = True
) -> Model:
    """The recipe's model, for these data and every side that this objective may ask for.

    Args:
        recipe: what to build.
        data: its data set, of which only the modalities are read.
        objective: its objective, of which only `all_sides` is read.
        pretrained: start from the published weights that an encoder names. Without them the model waits for those of
            a checkpoint, and the published file need not exist any more.
        training: refuse what must not be trained: a model that is no map of single samples.

    Raises RecipeError for parts that do not fit each other, and for what `first_law` refuses.
    """
    encoders = {m: _encoder(recipe, data, m, pretrained, training) for m in recipe.model.encoders}
    heads = _heads(recipe, encoders, objective.all_sides)
    return Model(encoders, heads, _fusion(recipe, encoders, objective.all_sides, training))


def _encoder(recipe: Recipe, data: Any, modality: str, pretrained: bool, training: bool) -> Encoder:
    spec, given = recipe.model.encoders[modality], (data.modalities[modality], recipe.model.dim)
    seed_torch(recipe.seed, "encoder", modality)

    def make() -> Encoder:
        return as_encoder(spec.build(*given), spec.name)

    encoder = make()
    if pretrained:
        try:
            encoder.load_pretrained()
        except ValueError as error:
            raise RecipeError(f"encoder '{spec.name}': {error}") from error
    if training:
        part = f"model.encoders.{modality} ({spec.name})"
        refuse_mixing_encoder(part, encoder, data.modalities[modality], make if spec.is_own else None)
    return encoder


def _heads(recipe: Recipe, encoders: dict[str, Encoder], sides: Sequence[Side]) -> dict[str, nn.Module]:
    """Linear heads on pooled features: of every plain side with `head: linear`, and of every second head."""
    heads: dict[str, nn.Module] = {}
    for side in sides:
        if not side.fused and (side.head or recipe.model.head == "linear"):
            seed_torch(recipe.seed, "head", str(side))
            heads[str(side)] = nn.Linear(encoders[side.members[0]].width, recipe.model.dim)
    return heads


def _fusion(recipe: Recipe, encoders: dict[str, Encoder], sides: Sequence[Side], training: bool) -> Fusion | None:
    """The fusion module, or None when no term asks for a fused side: then it costs nothing at all."""
    fused = list(dict.fromkeys(Side(s.members, True) for s in sides if s.fused))
    if not fused:
        return None
    spec = recipe.model.fusion
    if spec is None:
        raise RecipeError(
            f"the objective contrasts {', '.join(map(str, fused))}: say which module fuses, as model.fusion: mlp"
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


def compile_blocks(model: Model) -> None:
    """Compile a repeated layer once for all its copies; what has none is compiled whole.

    For the shapes of training alone, of which there are one or, with a smaller last micro-batch, two: those of
    evaluations would be compiled one after the other, so evaluations are left as they are (`Embedder`). All towers may
    share a class of layer, and each shape is compiled with and without gradient, for frozen layers and for others:
    more than torch's limit of eight, behind which it would go on uncompiled.
    """
    torch._dynamo.config.recompile_limit = 64
    # or it would cut a large layer where DistributedDataParallel cuts its messages
    torch._dynamo.config.optimize_ddp = False
    for module in (*model.encoders.values(), *([model.fusion] if model.fusion else [])):
        for part in module.repeated() or [module]:
            part.compile(dynamic=False)


def spread(parts: Parts, parallel: Parallel) -> nn.Module:
    """The model for training, with its gradients averaged or its weights divided, as the recipe's strategy says."""
    recipe, embedding = parts.recipe, Embedding(parts.model)
    if recipe.parallel.strategy == "ddp":
        return parallel.replicated(embedding)
    mesh = parallel.mesh(recipe.parallel.copies)
    lead = parallel.rank == 0
    copy = build_model(recipe, parts.data, parts.objective, pretrained=False, training=False) if lead else None
    parts.whole = Whole(parts.model, divided=True, copy=copy)
    divide(parts.model, mesh, recipe.train.precision)
    return embedding


def build_optimizer(parts: Parts) -> torch.optim.Optimizer:
    """AdamW over what is not frozen. Raises RecipeError where that is nothing, or no tower has layers to tell apart."""
    train, encoders = parts.recipe.train, parts.model.encoders
    rates = {"lr": train.lr, "weight_decay": train.weight_decay, "betas": train.betas, "eps": train.eps}
    try:
        scales = layer_lr_scales(encoders, train.layer_decay) if train.layer_decay else None
        return adamw(parts.model, parts.objective, **rates, lr_scales=scales)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def build_engine(parts: Parts, parallel: Parallel, metrics: Metrics) -> Engine:
    """The engine with the callbacks that every run has: the NaN guard and evaluation. Raises RecipeError."""
    recipe, train = parts.recipe, parts.recipe.train
    if train.batch % parallel.world:
        raise RecipeError(
            f"train.batch ({train.batch}) must be a multiple of the number of processes ({parallel.world})"
        )
    if parallel.device.type == "cpu":
        keep_memory()
    feed = Feed(
        parts.transforms(train=True), train.batch, recipe.seed, parallel.rank, parallel.world, recipe.parallel.workers
    )
    parts.model.to(parallel.device)
    parts.objective.to(parallel.device)
    if train.compile:
        compile_blocks(parts.model)
    embedding = spread(parts, parallel)
    batches = partial(parts.data.batches, feed=feed)
    engine = Engine(
        parts.model,
        embedding,
        parts.whole,
        parts.objective,
        build_optimizer(parts),
        batches,
        parallel,
        metrics,
        steps=parts.steps(train.for_),
        batch=train.batch,
        lr=train.lr,
        warmup=parts.steps(train.warmup),
        microbatch=train.microbatch and max(1, train.microbatch // parallel.world),
        clip=train.clip,
        precision=train.precision,
        seed=recipe.seed,
        log_every=max(1, parts.steps(recipe.log.every)),
    )
    engine.callbacks.append(NaNGuard())
    if recipe.eval.evaluators:
        every = max(1, parts.steps(recipe.eval.every))
        engine.callbacks.append(
            Evaluation(partial(parts.evaluate, parallel), every, recipe.eval.best, recipe.eval.start)
        )
    return engine
