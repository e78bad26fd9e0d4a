"""`wb ls`: the components, tasks, recipes and runs there are. Listing components never imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import note
from workbench.cli._completion import offer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.recipe.yaml_file import Tree

KINDS = {
    "encoder": "towers: what turns a modality into features",
    "fusion": "modules that make one embedding of several modalities",
    "objective": "what is optimised: sums of contrast terms, and methods that are none",
    "data": "data sets",
    "eval": "evaluators",
    "callback": "callbacks: trackers that a run tells of itself, where its recipe names them",
    "task": "synthetic tasks with exact truths",
    "recipe": "whole experiments as YAML files, those that come with the program",
    "run": "runs below a folder",
}

ABOUT_RECIPES = (
    "A recipe is a whole experiment. wb show recipe NAME prints one with all its keys; "
    "`extends: NAME` in a file of your own takes it over but for what you write."
)


@click.command()
@click.argument("kind", required=False, shell_complete=offer(lambda _: KINDS))
@click.option(
    "--dir", "folder", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where runs are."
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects on stdout.")
def ls_(kind: str | None, folder: Path, as_json: bool) -> None:
    """List what there is of KIND: encoder, fusion, objective, data, eval, callback, task, recipe or run. Without KIND,
    list the kinds.

    Exit codes: 0 listed, even where there is none; 2 no such kind.

    Example: wb ls objectives
    """
    kind = kind and singular(kind)
    if kind is None:
        rows: list[Tree] = [{"name": name, "summary": summary} for name, summary in KINDS.items()]
    elif kind == "run":
        rows = _runs(folder)
    elif kind == "recipe":
        rows = _recipes()
    else:
        rows = _components(kind)
    if as_json:
        click.echo(json.dumps(rows))
    elif rows:
        _print_table(rows)
        if kind == "recipe":
            note(ABOUT_RECIPES)
    else:
        note(f"no runs in {folder}: wb pretrain RECIPE makes one")


def singular(kind: str) -> str:
    """Return the kind itself, or the kind that `kind` is the plural of. Raises click.UsageError."""
    from workbench.errors import did_you_mean

    one = kind if kind in KINDS else kind.removesuffix("s")
    if one not in KINDS:
        raise click.UsageError(f"no kind '{kind}'{did_you_mean(kind, KINDS)}")
    return one


def _components(kind: str) -> list[Tree]:
    from workbench.recipe.component import names, summary

    return [{"name": name, "summary": summary(kind, name)} for name in names(kind)]


def _recipes() -> list[Tree]:
    """List shipped recipes with the first comment of their file: the command, its time, the expected result."""
    from workbench.recipe.yaml_file import recipe_names, shipped_recipes

    def summary(name: str) -> str:
        first = (shipped_recipes() / name).read_text(encoding="utf-8").partition("\n")[0]
        command, _, outcome = first.removeprefix("#").strip().partition("  ")
        return f"{command}: {outcome.strip()}" if first.startswith("#") else ""

    return [{"name": name, "summary": summary(name)} for name in recipe_names()]


def _runs(folder: Path) -> list[Tree]:
    """List every run folder below `folder`, the latest last, with the metric that stands for it."""
    from workbench.runs.report import find_reports

    reports, complaints = find_reports(folder)
    for line in complaints:
        click.echo(f"left out: {line}", err=True)
    return [
        {
            "name": str(report.run.relative_to(folder)),
            "recipe": report.recipe,
            "step": report.step,
            "finished": report.finished,
            "metric": report.metric,
            "value": report.value,
        }
        for report in reports
    ]


def _print_table(rows: Sequence[Tree]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli._printing import print_table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, no_wrap=column != "summary")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    print_table(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
