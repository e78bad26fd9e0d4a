"""The rows of the matrix: which tasks with which options, and what each objective is predicted to do there.

They are read from assets/predictions.yaml, which names their source. The trap: several rows may tell of the same runs,
so that a run is evaluated for all of its task's rows, also when one of them is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from synthetic.theory.truth import Truth
from workbench.errors import did_you_mean
from workbench.recipe.schema import Recipe
from workbench.recipe.yaml_file import Tree
from workbench.studies import arms

PREDICTIONS = Path(__file__).parents[1] / "assets" / "predictions.yaml"


@dataclass(frozen=True)
class Row:
    """One statement about the runs of a task: what each objective is predicted to do, and how it is judged."""

    name: str
    predicted: dict[str, str | float] = field(default_factory=dict)
    """{objective: P, F, * or an accuracy}"""
    by: Literal["loss", "accuracy"] = "loss"
    given: tuple[str, ...] | None = None
    """modalities that the target is predicted from; None: as the task says"""
    spread: float = 0.011
    """standard deviation of a seed's accuracy; that of 2000 samples"""

    @property
    def evaluator(self) -> str:
        """The key of the row's evaluator in the recipe."""
        return f"synthetic_from_{'_'.join(self.given)}" if self.given else "synthetic"


@dataclass(frozen=True)
class Variant:
    """A task with its options. It is trained once for all of its rows."""

    task: Tree
    rows: tuple[Row, ...]
    set: tuple[str, ...] = ()
    """overrides of its recipes"""
    left_out: dict[str, str] = field(default_factory=dict)
    """{objective: why it has no cell here}"""
    rendered: bool = False
    """pictures and words, with a budget of their own"""
    seconds: float = 3.0
    """a run, on one core"""

    @property
    def folder(self) -> str:
        options = [f"{key}={value}" for key, value in self.task.items() if key != "name"]
        return "-".join([self.name, *options])

    @property
    def name(self) -> str:
        """The name of the task."""
        return str(self.task["name"])

    def recipe(self, objective: str, seed: int, overrides: tuple[str, ...] = ()) -> Recipe:
        """Make the recipe of one run, with an evaluator for each row. Raises RecipeError."""
        evaluators = tuple(
            f"eval.{row.evaluator}={{name: synthetic, given: [{', '.join(row.given)}]}}"
            for row in self.rows
            if row.given
        )
        # TensorBoard would take as long as a run does
        own = (*self.set, *evaluators, "log.tensorboard=false")
        return arms.recipe_of(self.task, objective, seed, (*own, *overrides))

    def find_truth(self, row: Row, objective: str, overrides: tuple[str, ...]) -> Truth:
        """Compute the exact truth, at the batch that an objective is trained with."""
        truth = arms.find_truth(self.recipe(objective, 0, overrides))
        return truth.predicted_from(row.given) if row.given else truth


def read_variants() -> list[Variant]:
    """Read every task of the matrix, with what is predicted of it."""
    return [
        Variant(**entry | {"rows": tuple(map(_row, entry["rows"])), "set": tuple(entry.get("set", ()))})
        for entry in yaml.safe_load(PREDICTIONS.read_text(encoding="utf-8"))
    ]


def _row(entry: Mapping[str, Any]) -> Row:
    row = Row(**entry)
    return replace(row, given=tuple(row.given) if row.given else None)


def select(chosen: Sequence[str], rendered: bool) -> list[Variant]:
    """Select variants by the name of their task or of one of their rows; without any name all of them, rendered ones
    only if asked. Raises ValueError for a name that is neither."""
    found = read_variants()
    known = list(dict.fromkeys(name for v in found for name in (v.name, *(row.name for row in v.rows))))
    for name in chosen:
        if name not in known:
            raise ValueError(f"no task '{name}' in the matrix{did_you_mean(name, known)}")
    if not chosen:
        return [v for v in found if rendered or not v.rendered]
    return [v for v in found if {v.name, *(row.name for row in v.rows)} & set(chosen)]
