"""`wb synth --task all`: the matrix of tasks x objectives, measured beside predicted; run again, it resumes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import note, show_progress

if TYPE_CHECKING:
    from workbench.studies.matrix import Matrix
    from workbench.studies.side_by_side import Progress


def synth_all(
    objectives: Sequence[str],
    seeds: int,
    overrides: tuple[str, ...],
    folder: Path,
    jobs: int,
    as_json: bool,
    *,
    tasks: Sequence[str],
    rendered: bool,
    csv: Path | None,
    plot: Path | None,
) -> None:
    """Measure what is not yet in `folder`, then print, write and draw; exits with 1 when a run failed."""
    from workbench.studies import matrix, matrix_report, predictions

    chosen = [name.strip() for names in tasks for name in names.split(",") if name.strip()]
    try:
        variants = predictions.select(chosen, rendered)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    columns = tuple(dict.fromkeys(objectives)) or matrix.OBJECTIVES
    found = matrix.Matrix(variants, columns, seeds, overrides, folder)
    _measure(found, jobs)
    title = f"what each objective learns of each task, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    if csv:
        matrix_report.write_csv(found.cells.values(), csv)
    if plot:
        plot.parent.mkdir(parents=True, exist_ok=True)
        matrix_report.heat_map(found.cells, title.capitalize()).savefig(plot)
    if as_json:
        click.echo(json.dumps(found.as_list()))
    else:
        _print(found, title)
    if found.failed:
        sys.exit(1)


def _measure(found: Matrix, jobs: int) -> None:
    costs = found.costs()
    runs, ready = len(costs), costs.count(0.0)
    minutes = math.ceil(sum(costs) / jobs / 60)
    note(
        f"{sum(cell.left_out is None for cell in found.cells.values())} cells, {runs} runs in {found.folder}"
        + (f", {ready} of them finished before" if ready else "")
        + (f": about {minutes} min, {jobs} at once" if ready < runs else "")
    )
    with show_progress("matrix") as show:

        def watch(found: Sequence[Progress]) -> None:
            both = [(run.share, cost) for run, cost in zip(found, costs, strict=True)]
            done = sum(share == 1 or cost == 0 for share, cost in both)
            show(sum(share * cost for share, cost in both), sum(costs), f"{done}/{runs} runs")

        found.measure(jobs, watch)


def _print(found: Matrix, title: str) -> None:
    from rich.console import Console

    from workbench.cli._printing import print_table
    from workbench.studies import matrix_report

    console = Console()
    print_table(matrix_report.table(found.cells, title))
    for reason, mark in matrix_report.notes(found.cells.values()).items():
        console.print(f"{mark} {reason}", markup=False, highlight=False)
    console.print(matrix_report.LEGEND, style="dim", markup=False, highlight=False)
