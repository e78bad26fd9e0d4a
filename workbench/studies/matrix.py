"""The matrix: tasks x objectives x seeds, each cell what was measured beside what was predicted.

The trap: most cells are judged by the loss, some (retrieval from one modality, what emerges through a hub) by the
accuracy, and where no exact optimum is known a high accuracy proves that something was learned, a low one nothing.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe
from workbench.recipe.yaml_file import Tree
from workbench.studies import arms
from workbench.studies.arms import Result
from workbench.studies.predictions import Row, Variant
from workbench.studies.side_by_side import Failed, Job, Outcome, Progress, train_all
from workbench.studies.sweep_runs import name_run

OBJECTIVES = ("clip", "hub", "symile", "gram", "triangle", "confu", "confu_subsets", "confu_chain", "comm")

LETTERS = {
    "passed": "P", "passed by accuracy": "P†", "blind": "F", "missed": "F", "partial": "part", "below floor": "low!",
    "worse than blind": "worse", "unknown": "?", "error": "error", "left out": "–",
}  # fmt: skip
"""{verdict: how the matrix writes it}"""


@dataclass
class Cell:
    """An objective on a row: its runs, or why there are none."""

    row: Row
    objective: str
    left_out: str | None = None
    runs: list[Result] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    """{seed: what went wrong}"""

    @property
    def predicted(self) -> str | float | None:
        return self.row.predicted.get(self.objective)

    @property
    def verdicts(self) -> list[str]:
        return [_verdict(run, self.row.by) for run in self.runs]

    @property
    def verdict(self) -> str:
        """The verdict on all seeds, a key of LETTERS; where seeds differ, the most frequent one."""
        if self.left_out or self.errors or not self.runs:
            return "left out" if self.left_out else "error"
        return Counter(self.verdicts).most_common(1)[0][0]

    @property
    def letter(self) -> str:
        """The verdict as the matrix writes it; `P 2/3` where seeds differ."""
        same, letter = self.verdicts.count(self.verdict), LETTERS[self.verdict]
        return letter if same in (0, len(self.runs)) else f"{letter} {same}/{len(self.runs)}"

    @property
    def agrees(self) -> bool | None:
        """True where the verdict is the predicted one; None where nothing is asserted, or nothing was measured."""
        if self.predicted in (None, "*") or self.left_out or self.errors or not self.runs:
            return None
        if isinstance(self.predicted, float):
            accuracy = statistics.fmean(run.accuracy for run in self.runs)
            return abs(accuracy - self.predicted) <= 0.02 + 3 * self.row.spread / len(self.runs) ** 0.5
        letters = {LETTERS[verdict].rstrip("†") for verdict in self.verdicts}
        return None if letters == {"?"} else letters == {self.predicted}

    @property
    def reason(self) -> str | None:
        """The reason why the cell has no number; None where it has one."""
        if self.left_out or not self.errors:
            return self.left_out
        seeds: dict[str, list[str]] = {}
        for seed, error in sorted(self.errors.items()):
            seeds.setdefault(error, []).append(str(seed))
        return "; ".join(f"seed {', '.join(which)}: {error}" for error, which in seeds.items())

    def mean(self, name: str) -> float | None:
        """Take the mean of a number of Result over the seeds that have it; None where none has."""
        values = [getattr(run, name) for run in self.runs if getattr(run, name) is not None]
        return statistics.fmean(values) if values else None

    @property
    def accuracy_se(self) -> float | None:
        """The standard error of the mean accuracy; None for one seed."""
        count = len(self.runs)
        return statistics.stdev(run.accuracy for run in self.runs) / count**0.5 if count > 1 else None

    def as_dict(self) -> Tree:
        """Make the cell's line of the CSV: means over its seeds."""
        numbers = ("recovered", "accuracy", "chance", "bayes", "loss", "floor", "no_information_loss", "seconds")
        means = {name: self.mean(name) for name in numbers}
        return {
            "row": self.row.name,
            "objective": self.objective,
            "seeds": len(self.runs),
            "predicted": self.predicted,
            "verdict": self.verdict,
            "seeds_of_verdict": self.verdicts.count(self.verdict),
            "agrees": self.agrees,
            **means,
            "accuracy_se": self.accuracy_se,
            "note": self.reason,
        }


def way_to_bayes(run: Result) -> float:
    """Place the accuracy between chance, 0, and Bayes, 1; 0 where there is no way to go."""
    return (run.accuracy - run.chance) / (run.bayes - run.chance) if run.bayes > run.chance else 0.0


def _verdict(run: Result, by: str) -> str:
    """Judge a run. By accuracy, nine tenths of the way from chance to Bayes pass, less than a quarter is missed."""
    way = way_to_bayes(run)
    if by == "accuracy":
        return "passed" if way >= 0.9 else "missed" if way <= 0.25 else "partial"
    return "passed by accuracy" if run.verdict == "unknown" and way >= 0.9 else run.verdict


@dataclass
class Matrix:
    """Cells to be measured, and the runs behind them; `cells` and `runs` raise RecipeError for a wrong recipe."""

    variants: Sequence[Variant]
    objectives: Sequence[str]
    seeds: int
    overrides: tuple[str, ...]
    folder: Path

    @cached_property
    def cells(self) -> dict[tuple[str, str], Cell]:
        """All cells as {(row, objective): cell}, in the order of the matrix."""
        refused = {(v.folder, name): self._refusal(v, name) for v in self.variants for name in self.objectives}
        return {
            (row.name, name): Cell(row, name, left_out=refused[v.folder, name])
            for v in self.variants
            for row in v.rows
            for name in self.objectives
        }

    def _refusal(self, variant: Variant, objective: str) -> str | None:
        """Say why an objective cannot do a task, in its own words; None where it can."""
        if objective in variant.left_out:
            return variant.left_out[objective]
        recipe = self._recipe(variant, objective, 0)
        try:
            recipe.objective.build(tuple(recipe.model.encoders))
        except RecipeError as error:
            return str(error).partition(": ")[2]
        arms.check(recipe)
        return None

    def _recipe(self, variant: Variant, objective: str, seed: int) -> Recipe:
        return variant.recipe(objective, seed, self.overrides)

    @cached_property
    def runs(self) -> list[tuple[Variant, str, Job]]:
        """All runs as (variant, objective, job). Seeds are innermost, so that a matrix that is stopped has whole
        cells."""
        return [
            (v, name, Job(recipe, self.folder / _slug(v.folder) / name_run(name, seed)))
            for v in self.variants
            for name in self.objectives
            if self.cells[v.rows[0].name, name].left_out is None
            for seed in range(self.seeds)
            for recipe in [self._recipe(v, name, seed)]
        ]

    def costs(self) -> list[float]:
        """Estimate the seconds of each run on one core; 0 of those that are finished."""
        return [0.0 if job.folder and (job.folder / "DONE").exists() else v.seconds for v, _, job in self.runs]

    def measure(self, processes: int, progress: Callable[[Sequence[Progress]], None] = lambda _: None) -> None:
        """Train what is not finished, `processes` at once; a run that fails is an error of its cells alone."""
        with closing(train_all([job for *_, job in self.runs], processes, progress)) as outcomes:
            for index, outcome in outcomes:
                variant, objective, job = self.runs[index]
                for row in variant.rows:
                    _enter(self.cells[row.name, objective], job.recipe.seed, outcome)
        for cell in self.cells.values():
            cell.runs.sort(key=lambda run: run.seed)

    @property
    def failed(self) -> bool:
        return any(cell.errors for cell in self.cells.values())

    def as_list(self) -> list[Tree]:
        """Make an object of each row: its task, the truth, its runs, its cells' verdicts and predictions."""
        return [
            {
                "task": v.task["name"],
                "row": row.name,
                "options": {key: value for key, value in v.task.items() if key != "name"},
                "truth": v.find_truth(row, self.objectives[0], self.overrides).as_dict(),
                "results": [asdict(run) for name in self.objectives for run in self.cells[row.name, name].runs],
                "cells": [self.cells[row.name, name].as_dict() for name in self.objectives],
            }
            for v in self.variants
            for row in v.rows
        ]


def _enter(cell: Cell, seed: int, outcome: Outcome) -> None:
    if isinstance(outcome, Failed):
        cell.errors[seed] = str(outcome).partition("\n")[0]
    else:
        cell.runs.append(arms.judge(cell.objective, seed, outcome, cell.row.evaluator))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", name)
