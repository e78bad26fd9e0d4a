"""What a training step saves where open_clip's towers leave out what nothing reads: CPU seconds on one thread.

The same step, on the same pictures and captions of emoji, computes the whole and leaves out, in turns in one process.
`full` ends one caption of the batch at the last place of its context: what is left then is the last blocks' part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, cast

import click
import torch

from workbench.bench.rows import device_name, markdown, write
from workbench.build import build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.engine import Engine
from workbench.recipe.schema import parse_recipe
from workbench.training.allocator import keep_memory
from workbench.types import Batch

WAYS = ("whole", "left out", "left out, full")
END = 49407
"""id of the token that ends a text"""


@dataclass(frozen=True)
class Measured:
    """A line of the CSV."""

    model: str
    pixels: int
    batch: int
    way: str
    longest: int
    """tokens of the longest text"""
    round: int
    seconds: float
    """CPU seconds of a step, on one thread"""
    date: str
    torch: str
    machine: str


def prepare(model: str, pixels: int, batch: int) -> tuple[Engine, Batch]:
    """Build a training of both towers by a contrast of emoji with their names, and its first batch."""
    towers = {"image": {"name": "open_clip", "model": model, "image_size": pixels}}
    towers["text"] = {"name": "open_clip", "model": model}
    tree = {"name": "left-out", "data": {"name": "emoji", "views": 1}, "objective": "clip"}
    tree |= {"model": {"dim": 512, "encoders": towers}, "train": {"for": "1 steps", "batch": batch}}
    engine = build_engine(build_parts(parse_recipe(tree | {"parallel": {"workers": 0}})), Parallel())
    engine.model.train()
    return engine, next(engine.batches(0))


def measure(engine: Engine, batch: Batch, rounds: int) -> Iterator[tuple[str, int, int, float]]:
    """Yield the way, the longest text's tokens, the round and its seconds; a step before them makes what stays."""
    texts = batch.inputs["text"].clone()
    texts[0, 0, -1], texts[0, 0, 1:-1] = END, 1
    full = Batch(dict(batch.inputs) | {"text": texts}, batch.valid, batch.ids)
    engine.train_step(batch)
    for number in range(rounds):
        for way in WAYS:
            for encoder in engine.model.encoders.values():
                cast(Any, encoder).reads_one = way != "whole"
            read = full if way.endswith("full") else batch
            started = time.process_time()
            engine.train_step(read)
            seconds = time.process_time() - started
            yield way, int(read.inputs["text"].argmax(-1).max()) + 1, number, seconds


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each way: seconds, and the median of the rounds' ratios to the whole."""
    whole = {row.round: row.seconds for row in rows if row.way == WAYS[0]}
    lines = []
    for way in WAYS:
        own = [row for row in rows if row.way == way]
        ratio = median(whole[row.round] / row.seconds for row in own)
        lines.append([way, str(own[0].longest), f"{median(row.seconds for row in own):.2f}", f"{ratio:.2f}"])
    return markdown(["step", "longest text", "CPU seconds", "whole / this"], lines)


@click.command()
@click.option("--model", default="ViT-B-32", show_default=True, help="A ViT of open_clip that reads its class token.")
@click.option("--pixels", default=64, show_default=True, type=click.IntRange(min=32))
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=2))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--out", default="runs/left-out.csv", show_default=True, type=click.Path(path_type=Path))
def main(model: str, pixels: int, batch: int, rounds: int, out: Path) -> None:
    """Measure; print a table and write OUT. A minute on one free core."""
    torch.set_num_threads(1)
    keep_memory()  # as the command does it
    about, rows = (str(date.today()), version("torch"), device_name()), []
    for way, longest, number, seconds in measure(*prepare(model, pixels, batch), rounds):
        rows.append(Measured(model, pixels, batch, way, longest, number, seconds, *about))
        click.echo(f"{way}: {seconds:.2f} s", err=True)
    write(rows, out)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
