"""`wb data`: look at data sets before training on them, and build some from their sources."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import note, show_progress
from workbench.cli._completion import complete_recipe, offer

if TYPE_CHECKING:
    from workbench.inspection.look import Inspection, Listing

BUILDERS = {
    "emoji": "drawings with their names, from the packages that their makers publish. The packaged copy serves every "
    "recipe; this repeats how it was made. Needs npm, and resvg-py (pip install 'multimodal-workbench[data]')",
    "emoji-shards": "the packaged copy as webdataset tars, for `data: {name: shards}` and other trainers",
    "tux": "pictures, English sentences and people who say them in fourteen languages, as parquet. From Debian's "
    "stamps for Tux Paint: `apt-get download tuxpaint-stamps-default` (161 MB), then --deb FILE, or the folder that "
    "`dpkg-deb -x` unpacks it to. Needs resvg-py (pip install 'multimodal-workbench[data]'). GPL-2",
    "real-modsum": "a handwritten digit, a spoken digit, the word of their sum modulo 10: two of them tell the third, "
    "one of them nothing. Pictures are scikit-learn's (UCI's digits, CC BY 4.0), voices from the package that tux is "
    "built of (--deb FILE, GPL-2). Needs the extra audio (pip install 'multimodal-workbench[audio]')",
}
"""{data set: what it is}"""
OPTIONS = {"emoji": "sources", "tux": "deb", "real-modsum": "deb"}
"""{data set: its own option}; those that are in no such pair take --out and --json alone"""


@click.group()
def data_() -> None:
    """Inspect or build data sets.

    Example: wb data inspect 'cc12m/*.tar'
    """


class Build(click.Command):
    """Prints the help of one data set where its name stands before --help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["builder"] = next((name for name in args if name in BUILDERS), None)
        return super().parse_args(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if name := ctx.meta.get("builder"):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(f"Build the data set {name}: {BUILDERS[name]}.")
        else:
            super().format_help_text(ctx, formatter)


@data_.command(cls=Build, short_help="Build a data set from its sources.")
@click.argument("name", shell_complete=offer(lambda _: BUILDERS))
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write; default: data/NAME.")
@click.option(
    "--sources", type=click.Path(path_type=Path), metavar="DIR", help="Scratch folder for what is downloaded."
)
@click.option(
    "--deb", type=click.Path(path_type=Path), metavar="FILE", help="The Debian package, or its unpacked folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON on stdout.")
def build(name: str, out: Path | None, sources: Path | None, deb: Path | None, as_json: bool) -> None:
    """Build the data set NAME and print what it holds.

    \b
    emoji         drawings with their names, from the packages of their makers
    emoji-shards  the packaged copy of them as webdataset tars
    tux           pictures, sentences and voices, from Debian's stamps (--deb)
    real-modsum   a written digit, a spoken one, the word of their sum (--deb)

    `wb data build NAME --help` says what each needs.

    Exit codes: 0 built; 1 it could not be; 2 a wrong name or option.

    \b
    Examples: wb data build emoji-shards --out data/emoji-shards
              wb data build tux --deb tuxpaint-stamps-default_2022.06.04-1_all.deb
    """
    from workbench.errors import did_you_mean

    if name not in BUILDERS:
        raise click.UsageError(f"no data set '{name}' to build{did_you_mean(name, BUILDERS)}")
    options = _options_of(name, {"sources": sources, "deb": deb})
    builder = importlib.import_module(f"workbench.builders.{name.replace('-', '_')}")
    out = out or Path("data") / name
    if in_the_way := next((at for at in (out, *out.parents) if at.exists() and not at.is_dir()), None):
        raise click.UsageError(f"--out {out}: {in_the_way} is a file, and a folder is written: name another")
    counts = builder.build(out, **options)
    if as_json:
        click.echo(json.dumps({"name": name, "out": str(out), **counts}))
        return
    click.echo(f"{name} is in {out}")
    for key, count in counts.items():
        what = key.replace("_", " ")
        parts = ", ".join(f"{part} {n:,}" for part, n in count.items()) if isinstance(count, dict) else count
        click.echo(f"  {what}: {parts}" if isinstance(parts, str) else f"  {what}: {parts:,}")


def _options_of(name: str, given: dict[str, Path | None]) -> dict[str, Path]:
    """Give the option that the builder of a data set takes. Raises UsageError for another's, and for a missing one."""
    own = OPTIONS.get(name)
    for option, path in given.items():
        if path and option != own:
            owners = ", ".join(other for other, taken in OPTIONS.items() if taken == option)
            raise click.UsageError(f"--{option} belongs to {owners}: {name} reads nothing from it")
    if own is None:
        return {}
    path = given[own] or (Path(tempfile.gettempdir()) / "emoji_sources" if name == "emoji" else None)
    if path is None:
        raise click.UsageError(
            f"{name} is built from a file: wb data build {name} --{own} FILE. It holds {BUILDERS[name]}"
        )
    return {own: path}


@data_.command(short_help="Look at samples before training on them.")
@click.argument("path", shell_complete=complete_recipe)
@click.option("--source", help="What lies there, where that cannot be told: shards, csv, json, parquet, folder or hf.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key of it: fields.text.from=caption.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Inspect N random samples, the same every time.")
@click.option(
    "--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Draw images with their captions (PNG, PDF, SVG)."
)
@click.option("--bad", type=click.Path(path_type=Path, dir_okay=False), help="Write each bad sample as a line of JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def inspect(
    path: str,
    source: str | None,
    settings: tuple[str, ...],
    limit: int | None,
    sheet: Path | None,
    bad: Path | None,
    as_json: bool,
) -> None:
    """Decode samples and print what they have, their sizes, captions, bad ones.

    PATH is what a recipe's `data.path` may be (tars, CSV, TSV, JSON or parquet files; a glob or braces), a folder of
    such files, of images with a metadata.jsonl or a .txt beside each, or of `datasets`' save_to_disk; or a recipe,
    whose data is inspected.

    Exit codes: 0 inspected, bad samples counted; 1 no sample can be used; 2 a wrong source or option.

    \b
    Examples: wb data inspect 'cc12m/*.tar' --limit 10000 --sheet sheet.png
              wb data inspect pairs.tsv --set fields.text.from=caption
              wb data inspect emoji_ito.yaml
    """
    from workbench.errors import did_you_mean
    from workbench.inspection.look import chosen, listing
    from workbench.inspection.open_data import SOURCES, context_of, note_of, open_data
    from workbench.inspection.report import draw

    if source and source not in SOURCES:
        raise click.UsageError(f"no source '{source}'{did_you_mean(source, SOURCES)}")
    if sheet and sheet.suffix not in (".png", ".pdf", ".svg"):  # said now, not after hours of decoding
        raise click.UsageError(f"--sheet {sheet}: draws .png, .pdf or .svg")
    name, data = open_data(path, source, settings)
    listed = listing(data)
    for line in filter(None, (note_of(path, source), listed.mixed)):
        note(f"note: {line}")
    if not len(listed) and not listed.left_out:
        raise ValueError(f"{path} ({name}) has no sample: take another split with --set split=NAME, or another PATH")
    for file in filter(None, (sheet, bad)):
        file.parent.mkdir(parents=True, exist_ok=True)
    found = _inspect(listed, chosen(len(listed), limit), context_of(path, source, settings))
    if bad:
        bad.write_text("".join(json.dumps(sample._asdict()) + "\n" for sample in found.bad), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"path": path, "source": name, **found.as_dict()}))
    else:
        _print_findings(f"{path} ({name})", found, bad)
    if sheet and found.usable:
        draw(listed, found, f"{path}, {found.pairs:,} {'pairs' if found.are_pairs else 'samples'}", sheet)
    if not found.usable:
        what = "pair" if found.are_pairs else "sample"
        raise ValueError(f"{path} holds no usable {what}; the first is {found.bad[0]}")


def _inspect(listed: Listing, indices: list[int], context: int) -> Inspection:
    """Inspect these samples, of which `context` tokens of a caption are read, with a progress bar on stderr."""
    from workbench.inspection.look import inspect

    with show_progress("decoding") as show:
        return inspect(listed, indices, lambda done: show(done, len(indices)), context)


def _print_findings(title: str, found: Inspection, file: Path | None, shown: int = 10) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from workbench.inspection.report import describe, printable

    table = Table(box=None, pad_edge=False, show_header=False)
    for what, numbers in describe(found):
        table.add_row(f"[bold]{what}", escape(printable(numbers)))
    console = Console(highlight=False)
    console.print(escape(printable(title)))
    console.print(table)
    for sample in found.bad[:shown]:
        click.echo(printable(f"  {sample.name}: {sample.reason}"))
    if len(found.bad) > shown:
        click.echo(f"  and {len(found.bad) - shown:,} others, {f'all in {file}' if file else 'which --bad FILE names'}")
