"""The schema of an experiment. Every mistake is reported at once, with file and line, the value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from workbench.errors import RecipeError, did_you_mean
from workbench.recipe.component import Component, Spec, names, refuse_other_class, validate
from workbench.recipe.duration import Duration, Every, Timeout, parse, parse_clock, parse_interval
from workbench.recipe.renamed import rename_all
from workbench.recipe.section import Section, make_error, reraise_below
from workbench.recipe.yaml_file import Tree, apply_override, read_tree
from workbench.recipe.yaml_text import Lines, write_yaml
from workbench.types import Data, Encoder, Evaluator, Fusion, Objective

__all__ = ["Recipe", "RecipeError", "load_recipe", "parse_recipe"]

EncoderSpec = Annotated[Spec[Encoder], Component("encoder")]
FusionSpec = Annotated[Spec[Fusion], Component("fusion")]
ObjectiveSpec = Annotated[Spec[Objective], Component("objective")]
DataSpec = Annotated[Spec[Data], Component("data")]
EvaluatorSpec = Annotated[Spec[Evaluator], Component("eval")]

Count = Annotated[int, Field(gt=0, le=2**31)]
"""of samples, dimensions and processes: what is larger is a slip of the pen, and would be counted up to for ever"""
S = TypeVar("S", bound=Section)
SHOWN = 120
"""characters of a wrong value that a message repeats"""


class InitSection(Section):
    """Weights to start from, in the place of drawn ones; a bare path is short for `{from: PATH}`."""

    from_: str = Field(description="a run folder, or a checkpoint file in open_clip's format (.pt, .safetensors)")
    checkpoint: Annotated[str, BeforeValidator(str), Field(pattern="^(best|last|[0-9]+)$")] = Field(
        default="last", description="which one of a run: last, best, or a step"
    )
    parts: list[str] | None = Field(
        default=None, description="what to take, as [encoders.image, objective]; by default whatever fits by name"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"from": value} if isinstance(value, str) else value


def _with_directions(dim: int) -> int:
    """Return the width. Raises ValueError where unit vectors have no direction: no gradient would reach a tower."""
    if dim < 2:
        raise ValueError(
            "embeddings are unit vectors, which in one dimension are 1 or -1, without a gradient: write 2 or more"
        )
    return dim


class ModelSection(Section):
    """The towers, and what fuses them."""

    synonyms: ClassVar[Mapping[str, str]] = {"embed_dim": "dim", "width": "dim", "towers": "encoders"}

    dim: Annotated[Count, AfterValidator(_with_directions)] = Field(
        default=512, description="width of the shared space"
    )
    encoders: dict[str, EncoderSpec] = Field(min_length=1, description="a tower for each modality that is used")
    head: Literal["tower", "linear"] = Field(
        default="tower",
        description="plain modalities use the tower's own projection, or a linear head on its pooled features",
    )
    fusion: FusionSpec | None = Field(default=None, description="what makes one embedding of several modalities")
    init: InitSection | None = Field(
        default=None, description="weights to start from: fine-tuning; a resume does not read it"
    )


class ScheduleSection(Section):
    """The learning rate's schedule, where it is not that of the length of training."""

    for_: Duration | None = Field(
        default=None, description="the time until the rate is 0, in the place of train.for; behind it the last is kept"
    )


def _with_others(batch: int) -> int:
    """Return the batch. Raises ValueError where a sample has none to be compared with: its loss would always be 0."""
    if batch < 2:
        raise ValueError("a sample is contrasted with the others of its batch: write 2 or more")
    return batch


class TrainSection(Section):
    """One optimizer, one schedule: AdamW with a linear warm-up, then a cosine down to 0."""

    synonyms: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("epochs", "num_epochs", "max_epochs", "steps", "max_steps", "samples", "iterations"), "for"),
        **dict.fromkeys(("batch_size", "global_batch", "global_batch_size"), "batch"),
        **dict.fromkeys(("accum_freq", "accumulate", "grad_accum", "micro_batch", "chunk"), "microbatch"),
        **dict.fromkeys(("learning_rate", "rate"), "lr"),
        **dict.fromkeys(("wd", "decay"), "weight_decay"),
        **dict.fromkeys(("beta1", "beta2"), "betas"),
        **dict.fromkeys(("grad_clip", "grad_clip_norm", "max_grad_norm", "clip_norm"), "clip"),
        **dict.fromkeys(("amp", "dtype", "bf16"), "precision"),
    }

    for_: Duration = Field(description="the length of training, as '30 epochs'")
    batch: Annotated[Count, AfterValidator(_with_others)] = Field(
        description="contrastive batch: samples per optimizer step over all processes"
    )
    microbatch: Count | None = Field(default=None, description="samples encoded at once; gradients stay exact")
    lr: PositiveFloat = Field(default=1e-3, description="peak learning rate")
    warmup: Duration = Field(default=parse("0 steps"), description="time in which the learning rate rises to its peak")
    schedule: ScheduleSection = Field(
        default=ScheduleSection(), description="a horizon of its own, which a longer train.for leaves as it is"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="a layer of a tower learns at this fraction of the rate of the one above it"
    )
    weight_decay: NonNegativeFloat = Field(default=0.1, description="of matrices; vectors and scales have none")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.98), description="AdamW's averages of the gradient and of its square"
    )
    eps: PositiveFloat = Field(default=1e-6, description="AdamW's")
    clip: PositiveFloat | None = Field(default=1.0, description="largest gradient norm; null leaves gradients alone")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the towers; the loss is in fp32")
    compile: bool = Field(default=False, description="torch.compile the towers (needs a C++ compiler on CPU)")

    @model_validator(mode="after")
    def _divisible(self) -> TrainSection:
        if self.microbatch and self.batch % self.microbatch:
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of microbatch ({self.microbatch}): "
                f"set train.microbatch={_largest_divisor(self.batch, self.microbatch)}"
            )
        return self


def _largest_divisor(number: int, most: int) -> int:
    """Find the largest divisor of a number that is not above `most`."""
    small = (d for d in range(1, int(number**0.5) + 1) if number % d == 0)
    return max(d for pair in small for d in (pair, number // pair) if d <= most)


class EvalSection(Section):
    """When to evaluate; every further key is an evaluator, and the prefix of its metrics."""

    every: Every = Field(
        default=parse_interval("1 epochs"), description="time between evaluations; 0 steps: at the end only"
    )
    start: bool = Field(default=True, description="evaluate before training, too")
    best: str | None = Field(
        default=None,
        description="the metric that picks the best checkpoint, as 'retrieval/mean_recall'. Larger is better, but less "
        "of ranks, losses and gaps; 'min NAME' and 'max NAME' say which",
    )
    evaluators: dict[str, EvaluatorSpec] = Field(default={})

    @model_validator(mode="wrap")
    @classmethod
    def _collect(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or _is_collected(value):
            return handler(value)
        own = {key: item for key, item in value.items() if key in cls.model_fields and key != "evaluators"}
        evaluators: dict[str, Spec[object]] = {}
        errors: list[InitErrorDetails] = []
        for key in (key for key in value if key not in own):
            try:
                evaluators[key] = _read_evaluator(key, value[key])
            except ValidationError as error:
                errors += reraise_below(error, at=(key,))
            except PydanticCustomError as error:
                errors.append({"type": error, "loc": (key,), "input": value[key]})
        if errors:
            raise ValidationError.from_exception_data("EvalSection", errors)
        return handler({**own, "evaluators": evaluators})

    @model_validator(mode="after")
    def _best_is_measured(self) -> EvalSection:
        """Refuse a best metric of an evaluator that there is not: it would end the run at its first evaluation."""
        evaluator = self.best.rpartition(" ")[2].partition("/")[0] if self.best else None
        if evaluator and self.evaluators and evaluator not in self.evaluators:
            raise ValueError(
                f"best '{self.best}': no evaluator '{evaluator}'{did_you_mean(evaluator, self.evaluators)}"
            )
        return self


def _is_collected(value: dict[str, object]) -> bool:
    """Tell a section, which has its evaluators together, from a recipe, whose evaluators stand beside the other
    keys."""
    found = value.get("evaluators")
    return isinstance(found, dict) and bool(found) and all(isinstance(spec, Spec) for spec in found.values())


def _read_evaluator(key: str, value: object) -> Spec[object]:
    if value is None:
        raise make_error("null drops an evaluator that a parent has, and none has this one: write {} for its defaults")
    name = value.get("name") if isinstance(value, dict) else value.name if isinstance(value, Spec) else value
    named = isinstance(name, str) and (":" in name or name in names("eval"))
    if not named and key not in names("eval") and not (isinstance(value, dict) and "name" in value):
        known = [*(field for field in EvalSection.model_fields if field != "evaluators"), *names("eval")]
        raise make_error(f"unknown key '{key}', and no evaluator of this name{did_you_mean(key, known)}")
    return refuse_other_class(validate("eval", value, default_name=key))


class CheckpointSection(Section):
    """When to save, and what to keep."""

    every: Every = Field(
        default=parse_interval("1 epochs"), description="time between checkpoints; 0 steps: at the end only"
    )
    keep: Annotated[int, Field(ge=2)] = Field(
        default=2,
        description="newest checkpoints to keep (at least 2, so that one may be damaged); the best one is kept too",
    )
    keep_every: Every | None = Field(default=None, description="a checkpoint of every such time is kept for ever")
    async_: bool = Field(
        default=False, description="write from a copy while training goes on: one more copy of the states in memory"
    )


class ParallelSection(Section):
    """How the work is divided over processes."""

    synonyms: ClassVar[Mapping[str, str]] = {"num_workers": "workers"}

    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="all weights on each process (ddp), or a share of them (fsdp, torch's FSDP2)"
    )
    copies: Count = Field(
        default=1,
        description="copies of the model, each divided over its part of the processes (hybrid fsdp): one a node",
    )
    workers: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=2, description="data loading processes; they never change a result"
    )
    timeout: Timeout = Field(
        default=parse_clock("30 minutes"),
        description="processes that wait longer for one another end the run; more than an evaluation or a save takes",
    )


class LogSection(Section):
    """How often metrics are written, and where to."""

    every: Every = Field(
        default=parse_interval("1 steps"), description="how often a line of training metrics is written"
    )
    tensorboard: bool = Field(default=True, description="write TensorBoard's files beside metrics.jsonl")


def as_folder(name: str) -> str:
    """Return a name that a folder below runs/ can have. Raises ValueError for what would lie elsewhere."""
    parts = name.split("/")
    if any(part.strip() in ("", ".", "..") or not part.isprintable() for part in parts) or len(name.encode()) > 200:
        raise ValueError("the run's folder below runs/ has this name: write a word, as emoji-ito")
    return name


class Recipe(Section):
    """Everything about a run: two runs of equal recipes are equal."""

    name: Annotated[str, AfterValidator(as_folder)] = Field(description="the run's folder is runs/NAME")
    seed: Annotated[NonNegativeInt, Field(lt=2**63)] = Field(
        default=0, description="all initial weights, orders, augmentations and dropout follow from it"
    )
    data: DataSpec = Field(description="the data set")
    model: ModelSection = Field(description="a block with encoders")
    objective: ObjectiveSpec = Field(description="what is optimised")
    train: TrainSection = Field(description="a block with for and batch")
    eval: EvalSection = EvalSection()
    checkpoint: CheckpointSection = CheckpointSection()
    parallel: ParallelSection = ParallelSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _written_by_all(self) -> Recipe:
        if self.parallel.strategy == "fsdp" and self.checkpoint.async_:
            raise ValueError(
                "divided weights (parallel.strategy fsdp) are written by all processes at once: "
                "set checkpoint.async=false"
            )
        return self

    def as_dict(self) -> Tree:
        """Write out every default; the recipe runs again as it is returned here."""
        tree: Tree = self.model_dump(mode="json", by_alias=True)
        evaluators = {key: spec.as_dict() for key, spec in self.eval.evaluators.items()}
        return tree | {"eval": self.eval.model_dump(mode="json", exclude={"evaluators"}) | evaluators}

    def as_yaml(self) -> str:
        return write_yaml(self.as_dict())


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read `path`, its parents and `key=value` overrides. Raises RecipeError with every mistake found."""
    tree, lines = read_tree(path)
    if is_of_a_run(Path(path)):
        tree = rename_all(tree)
    for override in overrides:
        tree = apply_override(tree, lines, override)
    return parse_recipe(tree, lines)


def is_of_a_run(path: Path) -> bool:
    """Tell the resolved recipe in a run folder from one that a person has written."""
    return path.name == "recipe.yaml" and (path.parent / "environment.json").is_file()


def parse_recipe(tree: Mapping[str, object], lines: Lines | None = None) -> Recipe:
    """Make a recipe of a plain tree; `lines` says where each key was written. Raises RecipeError."""
    return parse_section(Recipe, tree, lines)


def parse_section(section: type[S], tree: Mapping[str, object], lines: Lines | None = None) -> S:
    """Make a file's section of a plain tree; `lines` says where each key was written. Raises RecipeError."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(line, lines or {}) for line in error.errors())) from None


def _explain(line: ErrorDetails, lines: Lines) -> str:
    place = line["loc"]
    where = next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), "recipe")
    message, given = line["msg"].removeprefix("Value error, "), line["input"]
    shown = repr(given) if len(repr(given)) <= SHOWN else f"{repr(given)[:SHOWN]}..."
    got = "" if isinstance(given, dict) or str(given) in message else f" (got {shown})"
    return ": ".join(filter(None, (where, ".".join(map(str, place)), message))) + got
