"""`wb eval`: run evaluators on a checkpoint of a run, or on a model of open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._completion import complete_run

if TYPE_CHECKING:
    from workbench.runs.evaluating import Evaluated


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="A key of the recipe's eval block (repeatable); default: all.",
)
@click.option(
    "--data",
    metavar="PATH",
    help="Other data than the run's, with their evaluators: a recipe, a folder in CLIP_benchmark's layout, or whatever "
    "`wb data inspect` reads (then retrieval, both ways). An open_clip model needs it.",
)
@click.option(
    "--checkpoint", "which", default="last", show_default=True, metavar="best|last|STEP", help="Which checkpoint."
)
@click.option(
    "--per-class",
    is_flag=True,
    help="Write precision, recall and support of every class, and what is taken for what, as CSV and as a picture.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where --per-class writes; default: RUN/reports/step-N.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change an evaluator, as eval.retrieval.split=test."
)
@click.option("--json", "as_json", is_flag=True, help='Print {"run", "step", "metrics"}, with --per-class "per_class".')
def eval_(
    run: str,
    suites: tuple[str, ...],
    data: str | None,
    which: str,
    per_class: bool,
    out: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Evaluate RUN: zero-shot, retrieval, gap, or whatever its recipe names.

    RUN is a run folder, a folder of `wb export`, or a model of open_clip: open_clip:MODEL/TAG, open_clip:MODEL/FILE, or
    open_clip:FOLDER with an open_clip_config.json.

    Exit codes: 0 evaluated; 1 it cannot be read or evaluated; 2 a wrong option, recipe or name.

    \b
    Examples:
      wb eval runs/emoji-ito --checkpoint best --suite concepts
      wb eval open_clip:ViT-B-32/laion2b_s34b_b79k --data wds/cifar10 --json
      wb eval open_clip:exported --data wds/cifar10 --per-class --out report
    """
    from workbench.runs.evaluating import evaluate_source

    if out and not per_class:
        raise click.UsageError("--out says where --per-class writes: add --per-class, or leave it out")
    found = evaluate_source(run, data, which, suites, overrides)
    if found.skipped:
        click.echo(f"left out {len(found.skipped)} bad samples of the data, the first is {found.skipped[0]}", err=True)
    written = _write(run, found, out) if per_class else []
    if as_json:
        from workbench.runs.class_reports import as_json as table_as_json

        tables = {"per_class": {name: table_as_json(table) for name, table in found.tables.items()}}
        metrics = {"run": run, "step": found.step, "metrics": found.metrics}
        click.echo(json.dumps(metrics | (tables if per_class else {})))
        return
    _print(run, found, written if per_class else None)


def _write(run: str, found: Evaluated, out: Path | None) -> list[Path]:
    """Write what is said class by class; of a model of open_clip only where `out` says. Raises ValueError where nothing
    is."""
    from workbench.runs.class_reports import write_reports

    if not found.tables:
        raise ValueError("--per-class: none of these evaluators tells classes; zeroshot, knn and probe do")
    folder = out or (None if found.step is None else Path(run) / "reports" / f"step-{found.step}")
    return write_reports(folder, found.tables) if folder else []


def _print(run: str, found: Evaluated, written: list[Path] | None) -> None:
    from workbench.cli._printing import print_evaluations
    from workbench.scoring.classes import say_confusions

    print_evaluations({"value": found.metrics}, title=run if found.step is None else f"{run}, step {found.step}")
    if written is None:
        return
    for name, table in found.tables.items():
        for line in say_confusions(table):
            click.echo(f"{name}: {line}")
    for file in written:
        click.echo(f"wrote {file}")
