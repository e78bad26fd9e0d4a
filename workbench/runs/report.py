"""Evaluations of a run as people compare them: before training, at the best step, at the last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workbench.runs.folder import Run, RunError
from workbench.training.metrics import Best, Record, read


def evaluations(records: list[Record]) -> list[Record]:
    """The records that hold evaluations, oldest first."""
    return [record for record in records if any(name.startswith("eval/") for name in record)]


def print_evaluations(records: list[Record], best: Best | None) -> None:
    """A table of metrics x (before, best, last)."""
    from rich.console import Console
    from rich.table import Table

    found = evaluations(records)
    if not found:
        return
    columns: dict[str, dict[str, Any]] = {f"step {found[0]['step']}": found[0]}
    if best:
        at_best = next((r for r in found if r["step"] == best.step), None)
        if at_best:
            columns[f"best, step {best.step}"] = at_best
    columns[f"last, step {found[-1]['step']}"] = found[-1]
    table = Table(title=f"best by {best.metric}" if best else None)
    table.add_column("metric")
    for title in columns:
        table.add_column(title, justify="right")
    for name in found[-1]:
        if name.startswith("eval/"):
            values = (column.get(name) for column in columns.values())
            table.add_row(name.removeprefix("eval/"), *("-" if v is None else f"{v:.4g}" for v in values))
    Console().print(table)


@dataclass(frozen=True)
class Report:
    """What the files of a run say, whether or not its components can still be imported."""

    run: Path
    recipe: str
    step: int
    finished: bool
    evaluations: list[Record]
    metric: str | None
    """the one that stands for the run: eval.best of its recipe, or else the first there is"""
    best: Best | None
    """of `metric`, where the recipe says that larger is better"""

    @property
    def value(self) -> float | None:
        """Of the metric, at the last evaluation."""
        return self.evaluations[-1].get(f"eval/{self.metric}") if self.evaluations else None


def read_report(path: Path) -> Report:
    """Raises RunError when `path` is not a run folder."""
    run = Run(path)
    if not run.exists:
        raise RunError(f"{path} is not a run folder: it has no recipe.yaml")
    recipe, records = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8")), read(run.metrics)
    found = evaluations(records)
    wanted = recipe["eval"]["best"]
    at = [(record[f"eval/{wanted}"], record["step"]) for record in found if f"eval/{wanted}" in record]
    return Report(
        run=path,
        recipe=recipe["name"],
        step=records[-1]["step"] if records else 0,
        finished=run.done.exists(),
        evaluations=found,
        metric=wanted or next((n.removeprefix("eval/") for r in found for n in r if n.startswith("eval/")), None),
        best=Best(wanted, *max(at, key=lambda pair: pair[0])) if at else None,
    )
