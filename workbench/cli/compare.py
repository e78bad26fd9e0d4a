"""`wb compare`: arms beside each other, over seeds: what differs, by how much, and what may be said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from workbench.cli._completion import complete_run

if TYPE_CHECKING:
    from workbench.studies.comparison import Comparison


FILE = click.Path(path_type=Path)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=FILE, shell_complete=complete_run)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="A metric, as validation/mean_recall or 'min NAME' (repeatable). [default: the recipe's eval.best]",
)
@click.option(
    "--at",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="The evaluation that stands first.",
)
@click.option("--against", metavar="ARM", help="Compare every arm with this one alone. [default: every two]")
@click.option("--anyway", is_flag=True, help="Compare runs of other data, splits or evaluations all the same.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "latex", "csv"]),
    default="table",
    show_default=True,
    help="What is printed on stdout.",
)
@click.option("--csv", "csv_file", metavar="FILE", type=FILE, help="Write means and differences there.")
@click.option(
    "--plot", "plot_file", metavar="FILE", type=FILE, help="Draw curves with bands, and intervals: .png, .svg or .pdf."
)
@click.option(
    "--html", "html_file", metavar="FILE", type=FILE, help="Write all of it into one page that opens without a network."
)
@click.option("--json", "as_json", is_flag=True, help='Print {"metric", "arms", "differences", ...} on stdout.')
def compare_(
    runs: tuple[Path, ...],
    metrics: tuple[str, ...],
    at: Literal["last", "best"],
    against: str | None,
    anyway: bool,
    form: str,
    csv_file: Path | None,
    plot_file: Path | None,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Compare run folders, those below a folder, or a sweep's: means, paired differences, costs, recipes.

    Runs whose recipes differ in the seed alone are one arm. Differences are taken within seeds, with 95 % t intervals.

    Exit codes: 0 compared; 1 runs are not comparable, as their data or evaluations differ, or have no numbers; 2 a
    wrong option.

    \b
    Examples: wb compare runs/clip-seed* runs/ito-seed* --metric gap/l2m
              wb compare runs/ito --against clip --html ito.html --plot ito.svg
    """
    from workbench.studies.comparison import compare
    from workbench.studies.comparison_tables import write_csv
    from workbench.studies.grouping import group_runs, read_runs

    read, complaints = read_runs(runs)
    found = compare(group_runs(read), metrics, at, against, anyway=anyway)
    found = replace(found, left_out=(*complaints, *found.left_out))
    if csv_file:
        _write(csv_file, write_csv(found))
    if plot_file:
        from workbench.studies.comparison_figures import draw, save

        save(draw(found), plot_file)
    if html_file:
        from workbench.studies.comparison_page import write_page

        _write(html_file, write_page(found, f"{' · '.join(found.arms)}: {found.measured[0].metric.name}"))
    if as_json:
        click.echo(json.dumps(found.as_dict(), allow_nan=False))
    else:
        _print(found, form)


def _write(path: Path, text: str) -> None:
    from workbench.errors import writing

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _print(found: Comparison, form: str) -> None:
    from workbench.studies.comparison_tables import write_csv, write_latex, write_markdown

    writers = {"markdown": write_markdown, "latex": write_latex, "csv": write_csv}
    if form in writers:
        click.echo(writers[form](found), nl=False)
    else:
        print_comparison(found)


def print_comparison(found: Comparison) -> None:
    """Print the tables whole, then what may be said in words."""
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli._printing import print_table
    from workbench.studies.comparison_tables import list_remarks, list_tables

    for table in list_tables(found):
        drawn = Table(title=table.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for place, column in enumerate(table.head):
            drawn.add_column(escape(column), justify="right" if place else "left", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*map(escape, row))
        print_table(drawn)
        click.echo()
    for heading, lines in list_remarks(found):
        click.echo(f"{heading}:")
        for line in lines:
            click.echo(f"  {line}")
