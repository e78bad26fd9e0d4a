"""The schema of an experiment. Every mistake is reported at once, with file and line, the value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler  # pydantic 2.10 has it only there
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from workbench.errors import RecipeError, did_you_mean
from workbench.recipe.callbacks import read_callbacks
from workbench.recipe.component import Component, Spec, names, refuse_other_class, validate
from workbench.recipe.duration import Every, parse_interval
from workbench.recipe.places import is_of_a_run
from workbench.recipe.renamed import rename_all
from workbench.recipe.section import Section, make_error, reraise_below
from workbench.recipe.sections import CheckpointSection, LogSection, ModelSection, ParallelSection, TrainSection
from workbench.recipe.yaml_file import Tree, apply_override, read_tree
from workbench.recipe.yaml_text import Lines, write_yaml
from workbench.types import Data, Evaluator, Objective

__all__ = ["Recipe", "RecipeError", "load_recipe", "parse_recipe"]

ObjectiveSpec = Annotated[Spec[Objective], Component("objective")]
DataSpec = Annotated[Spec[Data], Component("data")]
EvaluatorSpec = Annotated[Spec[Evaluator], Component("eval")]
CallbackSpec = Annotated[Spec[object], Component("callback")]
Callbacks = Annotated[dict[str, CallbackSpec], BeforeValidator(read_callbacks)]

S = TypeVar("S", bound=Section)
SHOWN = 120
"""characters of a wrong value that a message repeats"""


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
    callbacks: Callbacks = Field(default={}, description="who looks on: trackers, and classes of your own")
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
