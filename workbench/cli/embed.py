"""`wb embed`: what frozen towers say of every row, computed once and kept in a file to train heads on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import show_progress
from workbench.cli._completion import complete_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.runs.embed import Report


@click.command(short_help="Write embeddings of data, to train on them.")
@click.argument("source", shell_complete=complete_recipe)
@click.option(
    "--with",
    "said",
    required=True,
    metavar="ENCODER|RUN",
    help="An encoder, a run, or a recipe that locks some.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .parquet or .npz file.")
@click.option("--split", default="train", show_default=True, help="Which rows: train, or a split that is held out.")
@click.option("--field", "fields", multiple=True, metavar="NAME", help="Embed this one (repeatable); default: all.")
@click.option("--tokens", is_flag=True, help="Take all tokens, as a sequence, and not the pooled vector.")
@click.option("--shared", is_flag=True, help="Take unit vectors in the space that the fields of a run share.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Items at once; default: as the training has.")
@click.option("--dim", type=click.IntRange(min=2), default=512, show_default=True, help="Shared width of an encoder.")
@click.option("--checkpoint", default="last", show_default=True, metavar="best|last|STEP", help="Which one of a run.")
@click.option("--source", "kind", metavar="NAME", help="What lies at SOURCE, where that cannot be told.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key of the data: validation=val.csv.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def embed_(
    source: str,
    said: str,
    out: Path,
    split: str,
    fields: tuple[str, ...],
    tokens: bool,
    shared: bool,
    batch: int | None,
    dim: int,
    checkpoint: str,
    kind: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the embeddings of SOURCE with its ids, labels and texts into a file to train heads and fusions on.

    SOURCE is a recipe, or data as `wb data inspect` takes it. The same command goes on where it was stopped. Training
    on the file with `encoders: {image: {name: mlp, depth: 0}}` and `model.head: linear` gives the losses of a training
    with the locked encoder.

    Exit codes: 0 written, bad items counted; 1 nothing can be read or written; 2 a wrong encoder, recipe or
    option.

    \b
    Examples:
      wb embed films.yaml --with films.yaml --out train.parquet
      wb embed films.yaml --with runs/films --split test --shared --out test.npz
      wb embed 'cc12m/*.tar' --with '{name: open_clip, model: ViT-B-32,
        pretrained: openai}' --out cc12m.parquet
    """
    from workbench.errors import did_you_mean
    from workbench.inspection.open_data import SOURCES, open_data
    from workbench.runs.embed import embed
    from workbench.runs.embedding_file import refuse_name
    from workbench.runs.embedding_rows import open_rows
    from workbench.runs.towers import open_towers

    if kind and kind not in SOURCES:
        raise click.UsageError(f"no source '{kind}'{did_you_mean(kind, SOURCES)}")
    if tokens and shared:
        raise click.UsageError("--tokens and --shared: the shared space has one vector an item, name one of the two")
    what = "tokens" if tokens else "shared" if shared else "pooled"
    refuse_name(out)
    _, data = open_data(source, kind, settings)
    rows = open_rows(data, split)
    towers = open_towers(said, data, fields, checkpoint, dim)
    found = _with_a_bar(lambda tell: embed(rows, towers, out, what=what, batch=batch, tell=tell))
    if as_json:
        click.echo(json.dumps({"out": str(out), **found._asdict(), "bad": [bad._asdict() for bad in found.bad]}))
    else:
        _print_report(out, found)


def _with_a_bar(work: Callable[[Callable[[int, int], None]], Report]) -> Report:
    """Do the work with a progress bar on stderr."""
    with show_progress("embedding") as show:
        return work(show)


def _print_report(out: Path, found: Report, shown: int = 10) -> None:
    went_on = f", {found.resumed:,} of them from before" if found.resumed else ""
    click.echo(f"{out}: {found.rows:,} rows{went_on}")
    for name, field in found.fields.items():
        click.echo(f"  {name} ({field['kind']}): {field['rows']:,}")
    for name, count in found.several.items():
        click.echo(f"  {name}: {count:,} rows have several, of which the first was embedded")
    if found.left_out:
        click.echo(f"  not in the file: {', '.join(found.left_out)}, which no encoder reads")
    if found.bad:
        click.echo(f"  bad, kept as empty rows: {len(found.bad):,}")
    for bad in found.bad[:shown]:
        click.echo(f"    {bad}")
    click.echo("a recipe that trains on it may say in its block `data`, so that no other file is taken for it:")
    click.echo(f"  embedded_by: {found.embedded_by}")
    if found.embedded_from:
        click.echo(f"  embedded_from: {found.embedded_from}")
