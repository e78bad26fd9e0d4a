"""`wb data`: build data sets from their sources."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path

import click

BUILDERS = ("emoji", "emoji-shards")


@click.group()
def data_() -> None:
    """Build data sets.

    Example: wb data build emoji --out data/emoji
    """


@data_.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write; default: data/NAME.")
@click.option(
    "--sources", type=click.Path(path_type=Path), metavar="DIR", help="Scratch folder for what is downloaded."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON on stdout.")
def build(name: str, out: Path | None, sources: Path | None, as_json: bool) -> None:
    """Build the data set NAME and print what it holds.

    \b
    emoji         from the packages its makers publish. The packaged copy serves every recipe; this repeats
                  how it was made. Needs npm, and resvg-py (pip install 'multimodal-workbench[data]').
    emoji-shards  the packaged copy as webdataset tars, for `data: {name: shards}` and other trainers

    Example: wb data build emoji-shards --out data/emoji-shards
    """
    from workbench.errors import did_you_mean

    if name not in BUILDERS:
        raise click.UsageError(f"no data set '{name}' to build{did_you_mean(name, BUILDERS)}")
    if sources and name != "emoji":
        raise click.UsageError(f"--sources belongs to emoji: {name} downloads nothing")
    builder = importlib.import_module(f"workbench.builders.{name.replace('-', '_')}")
    out = out or Path("data") / name
    scratch = {"sources": sources or Path(tempfile.gettempdir()) / "emoji_sources"} if name == "emoji" else {}
    counts = builder.build(out, **scratch)
    if as_json:
        click.echo(json.dumps({"name": name, "out": str(out), **counts}))
        return
    click.echo(f"{name} is in {out}")
    for what, count in counts.items():
        parts = ", ".join(f"{part} {n:,}" for part, n in count.items()) if isinstance(count, dict) else f"{count:,}"
        click.echo(f"  {what}: {parts}")
