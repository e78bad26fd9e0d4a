"""`wb search`: what a trained model finds in one's own files for a text, a picture, or several fields together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import show_progress
from workbench.cli._completion import complete_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from workbench.runs.search import Answer, Search


@click.command(short_help="Find what fits a text, a picture or several fields.")
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_run)
@click.option("--text", metavar="WORDS", help="Ask with a text; short for --query text=WORDS.")
@click.option("--image", metavar="FILE", help="Ask with a picture; short for --query image=FILE.")
@click.option("--query", "asked", multiple=True, metavar="FIELD=VALUE", help="Ask with a field (repeatable).")
@click.option("--images", metavar="DIR", help="Search pictures; short for --among image=DIR.")
@click.option("--texts", metavar="FILE", help="Search texts, a line each; short for --among text=FILE.")
@click.option("--among", "among", multiple=True, metavar="FIELD=WHERE", help="Search a field of files or data.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1), metavar="K", help="How many.")
@click.option(
    "--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Draw query and answers (PNG, PDF, SVG)."
)
@click.option("--index", type=click.Choice(("exact", "faiss")), default="exact", show_default=True, help="How.")
@click.option("--split", default="train", show_default=True, help="Which rows of a source are searched.")
@click.option("--source", metavar="NAME", help="What lies at WHERE, where that cannot be told.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key of the data at WHERE.")
@click.option("--checkpoint", default="last", show_default=True, metavar="best|last|STEP", help="Which one of the run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def search_(
    run: Path,
    text: str | None,
    image: str | None,
    asked: tuple[str, ...],
    images: str | None,
    texts: str | None,
    among: tuple[str, ...],
    top: int,
    sheet: Path | None,
    index: str,
    split: str,
    source: str | None,
    settings: tuple[str, ...],
    checkpoint: str,
    as_json: bool,
) -> None:
    """Print what the model of RUN finds best for a query, in your own files.

    A query is a text, a file, or several fields together, which are joined as the run's objective has learned to join
    them. WHERE is a folder of files, a file with a text a line, data as `wb data inspect` takes it (a recipe, too), or
    embeddings of it: a .parquet file of `wb embed --with RUN --shared`, which is searched without any picture being
    read again. Files that cannot be read are counted and named.

    \b
    Examples:
      wb search runs/ito --text "a red heart" --images photos --sheet hearts.png
      wb search runs/ito --image heart.png --texts captions.txt --top 3
      wb search runs/films --query text="a storm" --query image=sea.jpg
        --among speech=voices
    Exit codes: 0 found, 1 nothing can be searched or asked,
    2 a wrong option.
    """
    pairs = [*_short("text", text), *_short("image", image), *(_pair("--query", each) for each in asked)]
    places = [*_short("image", images), *_short("text", texts), *(_pair("--among", each) for each in among)]
    if not pairs:
        raise click.UsageError("ask with --text WORDS, --image FILE or --query FIELD=VALUE")
    if len(places) != 1:
        said = "search one place" if places else "say what is searched"
        raise click.UsageError(f"{said}: --images DIR, --texts FILE or --among FIELD=WHERE")
    if sheet and sheet.suffix not in (".png", ".pdf", ".svg"):  # said now, not after minutes
        raise click.UsageError(f"--sheet {sheet}: draws .png, .pdf or .svg")
    from workbench.runs.search import Search, query_item

    engine = Search(run, checkpoint)
    query: dict[str, object] = {}
    for kind, name, value in pairs:
        name = name or engine.field_of(kind)
        if name in query:
            raise click.UsageError(f"--query {name} is given twice: a query has one item of each field")
        query[name] = query_item(engine.kinds.get(name, "text"), value)
    ((kind, name, where),) = places
    target = name or engine.field_of(kind)
    found = _with_a_bar(
        lambda tell: engine.answer(
            query, target, where, top=top, index=index, split=split, source=source, settings=settings, tell=tell
        )
    )
    if as_json:
        click.echo(json.dumps(_as_tree(run, query, target, where, found)))
    else:
        _print_answer(query, target, where, found)
    if sheet:
        _draw(engine, query, target, found, sheet)


def _short(kind: str, value: str | None) -> list[tuple[str, str, str]]:
    """Make of a short option (kind, no name, value)."""
    return [] if value is None else [(kind, "", value)]


def _pair(option: str, said: str) -> tuple[str, str, str]:
    """Read FIELD=VALUE as (no kind, field, value). Raises UsageError for anything else."""
    name, equals, value = said.partition("=")
    if not (name.isidentifier() and equals and value):
        raise click.UsageError(f"{option} {said}: write FIELD=VALUE, as {option} image=photos")
    return "", name, value


def _with_a_bar(work: Callable[[Callable[[int, int], None]], Answer]) -> Answer:
    """Do the work with a progress bar on stderr."""
    with show_progress("searching") as show:
        return work(show)


def _as_tree(
    run: Path, query: Mapping[str, object], target: str, where: str, found: Answer, shown: int = 10
) -> dict[str, object]:
    hits = [
        {"rank": rank, "score": hit.score, "name": hit.name, "text": hit.item if isinstance(hit.item, str) else None}
        for rank, hit in enumerate(found.hits, 1)
    ]
    return {
        "run": str(run),
        "step": found.step,
        "query": {name: str(item) for name, item in query.items()},
        "asked_by": list(map(str, found.question.query)),
        "among": {"field": target, "where": where, "candidates": found.candidates, "missing": found.missing},
        "bad": {"number": len(found.bad), "first": [bad._asdict() for bad in found.bad[:shown]]},
        "results": hits,
    }


def _print_answer(query: Mapping[str, object], target: str, where: str, found: Answer, shown: int = 3) -> None:
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli._printing import print_table
    from workbench.figures.embeddings import short
    from workbench.inspection.report import printable

    noun = f"{target}s" if found.candidates > 1 else target
    click.echo(printable(f"{_say(query)} among {found.candidates:,} {noun} of {where}"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    has_text = any(isinstance(hit.item, str) for hit in found.hits)
    for column in ([target] if has_text else []) + ["file" if not has_text else "from"]:
        table.add_column(column, no_wrap=True)
    for rank, hit in enumerate(found.hits, 1):
        texts = [escape(printable(short(str(hit.item or ""), 80)))] if has_text else []
        table.add_row(str(rank), f"{hit.score:.3f}", *texts, escape(printable(hit.name)))
    print_table(table)
    if found.missing:
        click.echo(f"{found.missing:,} rows have no {target}", err=True)
    if found.bad:
        click.echo(f"{len(found.bad):,} cannot be read, and are left out:", err=True)
        for bad in found.bad[:shown]:
            click.echo(printable(f"  {bad}"), err=True)


def _say(query: Mapping[str, object]) -> str:
    """Write a query as people read it."""
    return " + ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in query.values())


def _draw(engine: Search, query: Mapping[str, object], target: str, found: Answer, sheet: Path) -> None:
    """Draw the items of the query, then those that were found, a card each."""
    from workbench.errors import writing
    from workbench.figures.embeddings import contact_sheet
    from workbench.runs.items import read_item

    cards: list[tuple[object, str, Sequence[str]]] = [
        (read_item(engine.kinds[name], item), f"the query: {name}", [str(item)]) for name, item in query.items()
    ]
    for rank, hit in enumerate(found.hits, 1):
        item = hit.name if hit.item is None else read_item(engine.kinds[target], hit.item)
        said = [hit.item] if isinstance(hit.item, str) else [Path(hit.name).name]
        cards.append((item, f"{rank}, score {hit.score:.3f}", said))
    title = f"{_say(query)}: the best of {found.candidates:,}"
    with writing(sheet):
        sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(cards, title).savefig(sheet)
