"""Evaluations of a run as people compare them: before training, at the best step, at the last.

`wb ls run` and `wb show run` are this: files are read, and neither torch nor a recipe's components are imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import RunError
from workbench.training.checkpoint_files import read_best
from workbench.training.metrics import Best, Criterion, Record, read


def evaluations(records: list[Record]) -> list[Record]:
    """Choose the records that hold evaluations, oldest first."""
    return [record for record in records if any(name.startswith("eval/") for name in record)]


def compare_evaluations(records: list[Record], best: Best | None) -> dict[str, dict[str, float]]:
    """Choose the evaluations that people compare: {before training, best, last: {metric: value}}, each step once."""
    found = evaluations(records)
    if not found:
        return {}
    steps = {found[0]["step"]: "", found[-1]["step"]: "last, "}
    if best:
        steps[best.step] = "best and last, " if best.step == found[-1]["step"] else "best, "
    chosen = {record["step"]: record for record in found if record["step"] in steps}
    return {
        f"{steps[step]}step {step}": {n.removeprefix("eval/"): v for n, v in record.items() if n.startswith("eval/")}
        for step, record in sorted(chosen.items())
    }


@dataclass(frozen=True)
class Report:
    """The content of a run's files, whether or not its components can still be imported."""

    run: Path
    recipe: str
    step: int
    finished: bool
    evaluations: list[Record]
    metric: str | None
    """the one that stands for the run: eval.best of its recipe, or else the first there is"""
    best: Best | None
    """by `metric`, where the recipe names one in eval.best"""

    @property
    def value(self) -> float | None:
        """The metric's value at the last evaluation."""
        return self.evaluations[-1].get(f"eval/{self.metric}") if self.evaluations else None


def read_report(path: Path) -> Report:
    """Read what the files of a run say. Raises RunError when `path` is not a run folder."""
    recipe = _read_recipe(path / "recipe.yaml")
    records = read(path / "metrics.jsonl")
    found = evaluations(records)
    wanted = recipe["eval"].get("best")
    criterion = Criterion.parse(wanted) if isinstance(wanted, str) else None
    best = read_best(path / "checkpoints") if criterion else None
    if criterion and (best is None or best.metric != criterion.metric):  # of versions before, or not saved yet
        best = criterion.best_of(found)
    first = next((name.removeprefix("eval/") for r in found for name in r if name.startswith("eval/")), None)
    return Report(
        run=path,
        recipe=recipe["name"],
        step=records[-1]["step"] if records else 0,
        finished=(path / "DONE").exists(),
        evaluations=found,
        metric=criterion.metric if criterion else first,
        best=best,
    )


def _read_recipe(file: Path) -> dict[str, Any]:
    """Read the resolved recipe of a run without importing what it names. Raises RunError where it is no such recipe."""
    if not file.is_file():
        raise RunError(f"{file.parent} is not a run folder: it has no recipe.yaml")
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict) or "name" not in recipe or not isinstance(recipe.get("eval"), dict):
        raise RunError(f"{file.parent} is not a run folder: its recipe.yaml is not what a run writes there")
    return recipe


def find_reports(folder: Path) -> tuple[list[Report], list[str]]:
    """Read every run below a folder, the latest last; returns the reports, and a line for each other recipe.yaml."""
    reports: list[Report] = []
    complaints: list[str] = []
    for file in sorted(folder.rglob("recipe.yaml"), key=lambda file: file.stat().st_mtime):
        try:
            reports.append(read_report(file.parent))
        except RunError as error:
            complaints.append(str(error))
    return reports, complaints
