"""What a step of a small batch costs, its loss in one piece or in the general way: CPU milliseconds, in one process.

The recipes are those of `wb synth --task xor`. Rounds alternate between both ways; an objective counts with the median
of its rounds, a round with the median of its steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click
import torch

from kernels.chunked import small
from workbench.bench.rows import device_name, markdown, write
from workbench.build import build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.engine import Engine
from workbench.studies.arms import recipe_of
from workbench.types import Batch

OBJECTIVES = ("clip", "confu")
BATCHES = (256, 1024)
STEPS = 20
WAYS = ("general", "in one piece")


@dataclass(frozen=True)
class Measured:
    """A line of the CSV."""

    objective: str
    batch: int
    way: str
    round: int
    ms: float
    """CPU milliseconds a step, on one thread"""
    date: str
    torch: str
    machine: str


@contextmanager
def solving(way: str) -> Iterator[None]:
    """Solve losses one way within this block."""
    cells = small.CELLS
    small.CELLS = 0 if way == "general" else cells
    try:
        yield
    finally:
        small.CELLS = cells


def prepare(objective: str, batch: int) -> tuple[Engine, list[Batch]]:
    """Build a run of XOR as `wb synth` does, and take the batches of a round."""
    recipe = recipe_of({"name": "xor"}, objective, 0, (f"train.batch={batch}",))
    engine = build_engine(build_parts(recipe), Parallel())
    engine.model.train()
    batches = engine.batches(0)
    return engine, [next(batches) for _ in range(STEPS)]


def measure(engine: Engine, batches: Sequence[Batch]) -> float:
    """Train on each batch once; returns the median of the CPU milliseconds that a step took."""
    seconds = []
    for batch in batches:
        started = time.process_time()
        engine.train_step(batch)
        seconds.append(time.process_time() - started)
    return 1000 * median(seconds)


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each objective and batch: milliseconds each way, and the median of the rounds' ratios."""
    lines = []
    for objective, batch in dict.fromkeys((row.objective, row.batch) for row in rows):
        these = [row for row in rows if (row.objective, row.batch) == (objective, batch)]
        general, one = ([row.ms for row in these if row.way == way] for way in WAYS)
        ratio = median(slow / fast for slow, fast in zip(general, one, strict=True))
        lines.append([objective, str(batch), f"{median(general):.1f}", f"{median(one):.1f}", f"{ratio:.2f}"])
    return markdown(["objective", "batch", *(f"ms, {way}" for way in WAYS), "ratio"], lines)


@click.command()
@click.option("--out", default="runs/small-steps.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
def main(out: Path, rounds: int) -> None:
    """Measure; print a table and write OUT. Half a minute."""
    torch.set_num_threads(1)
    about, rows = (str(date.today()), version("torch"), device_name()), []
    for objective in OBJECTIVES:
        for size in BATCHES:
            engine, batches = prepare(objective, size)
            measure(engine, batches)  # not kept: the first steps make the optimizer's state
            for k in range(rounds):
                for way in WAYS:
                    with solving(way):
                        rows.append(Measured(objective, size, way, k, measure(engine, batches), *about))
    write(rows, out)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
