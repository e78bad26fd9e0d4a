"""The schema of an experiment. Every mistake is reported at once, with file and line, the value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from workbench.errors import RecipeError
from workbench.recipe.component import Section, Spec, component, relay, validate
from workbench.recipe.duration import Duration, Timeout, parse, parse_clock
from workbench.recipe.yaml_file import Lines, read_tree

__all__ = ["Recipe", "RecipeError", "load_recipe", "parse_recipe"]


class Init(Section):
    """Weights to start from, in the place of drawn ones; a bare path is short for `{from: PATH}`."""

    from_: str = Field(description="a run folder, or a checkpoint file in open_clip's format (.pt, .safetensors)")
    checkpoint: Annotated[str, BeforeValidator(str), Field(pattern="^(best|last|[0-9]+)$")] = Field(
        default="last", description="of a run: last, best, or a step"
    )
    parts: list[str] | None = Field(
        default=None, description="what to take, as [encoders.image, objective]; by default whatever fits by name"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str) else value


class Model(Section):
    dim: PositiveInt = Field(default=512, description="width of the shared space")
    encoders: dict[str, component("encoder")] = Field(min_length=1)
    head: Literal["tower", "linear"] = Field(
        default="tower",
        description="plain modalities use the tower's own projection, or a linear head on its pooled features",
    )
    fusion: component("fusion", optional=True) = None
    init: Init | None = Field(default=None, description="weights to start from: fine-tuning; a resume does not read it")


class Train(Section):
    for_: Duration = Field(description="length of training")
    batch: PositiveInt = Field(description="contrastive batch: samples per optimizer step over all processes")
    microbatch: PositiveInt | None = Field(default=None, description="samples encoded at once; gradients stay exact")
    lr: PositiveFloat = 1e-3
    warmup: Duration = parse("0 steps")
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="a layer of a tower learns at this fraction of the rate of the one above it"
    )
    weight_decay: NonNegativeFloat = 0.1
    betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.9, 0.98)
    eps: PositiveFloat = 1e-6
    clip: PositiveFloat | None = Field(default=1.0, description="largest gradient norm; null leaves gradients alone")
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = Field(default=False, description="torch.compile the towers (needs a C++ compiler on CPU)")

    @model_validator(mode="after")
    def _divisible(self) -> Train:
        if self.microbatch and self.batch % self.microbatch:
            fits = max(d for d in range(1, self.microbatch + 1) if self.batch % d == 0)
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of microbatch ({self.microbatch}): "
                f"set train.microbatch={fits}"
            )
        return self


class Eval(Section):
    """When to evaluate; every further key is an evaluator, and the prefix of its metrics."""

    every: Duration = parse("1 epochs")
    start: bool = Field(default=True, description="evaluate before training, too")
    best: str | None = Field(
        default=None,
        description="the metric that picks the best checkpoint, as 'retrieval/mean_recall'; larger is better",
    )
    evaluators: dict[str, Spec] = Field(default={})

    @model_validator(mode="wrap")
    @classmethod
    def _collect(cls, value: Any, handler: Any) -> Any:
        if not isinstance(value, dict) or "evaluators" in value:
            return handler(value)
        own = {key: item for key, item in value.items() if key in cls.model_fields}
        evaluators, errors = {}, []
        for key in value.keys() - own.keys():
            try:
                evaluators[key] = validate("eval", value[key], default_name=key)
            except ValidationError as error:
                errors += relay(error, at=(key,))
            except PydanticCustomError as error:
                errors.append({"type": error, "loc": (key,), "input": value[key]})
        if errors:
            raise ValidationError.from_exception_data("Eval", errors)
        return handler({**own, "evaluators": {key: evaluators[key] for key in value if key in evaluators}})


class Checkpoint(Section):
    every: Duration = parse("1 epochs")
    keep: Annotated[int, Field(ge=2)] = Field(
        default=2,
        description="newest checkpoints to keep (at least 2, so that one may be damaged); the best one is kept too",
    )
    keep_every: Duration | None = Field(default=None, description="a checkpoint of every such time is kept for ever")
    async_: bool = Field(
        default=False, description="write from a copy while training goes on: one more copy of the states in memory"
    )


class Parallel(Section):
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="all weights on each process (ddp), or a share of them (fsdp, torch's FSDP2)"
    )
    copies: PositiveInt = Field(
        default=1, description="of the model, each divided over its part of the processes (hybrid fsdp): one a node"
    )
    workers: NonNegativeInt = Field(default=2, description="data loading processes; they never change a result")
    timeout: Timeout = Field(
        default=parse_clock("30 minutes"),
        description="processes that wait longer for one another end the run; more than an evaluation or a save takes",
    )


class Log(Section):
    every: Duration = Field(default=parse("1 steps"), description="how often a line of training metrics is written")
    tensorboard: bool = True


class Recipe(Section):
    name: str
    seed: NonNegativeInt = 0
    data: component("data")
    model: Model
    objective: component("objective")
    train: Train
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    parallel: Parallel = Parallel()
    log: Log = Log()

    @model_validator(mode="after")
    def _written_by_all(self) -> Recipe:
        if self.parallel.strategy == "fsdp" and self.checkpoint.async_:
            raise ValueError(
                "divided weights (parallel.strategy fsdp) are written by all at once: set checkpoint.async=false"
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        """The resolved recipe: every default written out; it runs again as is."""
        tree = self.model_dump(mode="json", by_alias=True)
        tree["eval"] = {k: v for k, v in tree["eval"].items() if k != "evaluators"} | {
            key: spec.as_dict() for key, spec in self.eval.evaluators.items()
        }
        return tree

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, width=120)


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read `path`, its parents and `key=value` overrides. Raises RecipeError with every mistake found."""
    return parse_recipe(*read_tree(path, overrides))


def parse_recipe(tree: dict[str, Any], lines: Lines | None = None) -> Recipe:
    """A recipe from a plain tree; `lines` says where each key was written. Raises RecipeError."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(line, lines or {}) for line in error.errors())) from None


def _explain(line: Any, lines: Lines) -> str:
    place = line["loc"]
    where = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), "recipe")
    message = str(line["msg"]).removeprefix("Value error, ")
    got = "" if isinstance(line["input"], dict) or str(line["input"]) in message else f" (got {line['input']!r})"
    return f"{where}: {'.'.join(map(str, place))}: {message}{got}"
