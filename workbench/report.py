"""Evaluations of a run as people compare them: before training, at the best step, at the last."""

from __future__ import annotations

from typing import Any

from workbench.checkpoint import Best
from workbench.metrics import Record


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
