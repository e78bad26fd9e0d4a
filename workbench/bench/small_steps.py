"""What a step of a small run costs beside another checkout of this repository: CPU milliseconds on one thread.

A step is all that the training loop does: batch, forward, loss, backward, update, metrics and a run's callbacks,
without the evaluation. The recipes are those of `wb synth --task xor`; `ito` has the terms of ITO on two of its
modalities, each in two views. Rounds alternate between the checkouts, each in a process of its own, which counts with
the median of its steps; this file runs in both, so it may use only what both have.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click
import torch

from workbench.bench.rows import device_name, markdown, write
from workbench.build import build_engine, build_parts
from workbench.callbacks.evaluation import Evaluation
from workbench.distributed.processes import Parallel
from workbench.engine import Engine
from workbench.runs.callbacks import list_callbacks
from workbench.studies.arms import recipe_of
from workbench.training.allocator import keep_memory
from workbench.types import Batch

OBJECTIVES = ("clip", "symile", "confu", "ito")
BATCHES = (256, 1024)
WARM, STEPS = 5, 40
ITO = (
    "objective={name: terms, terms: [{between: [a, b]}, {between: [a+b, a+b], positives: each, weight: 2}]}",
    "model.fusion={name: mlp, hidden: 128, dropout: 0.0, final_activation: false}",
    "model.head=linear",
    "eval.synthetic=null",
)


@dataclass(frozen=True)
class Measured:
    """A line of the CSV."""

    objective: str
    batch: int
    checkout: str
    """here, or the other one"""
    round: int
    ms: float
    """CPU milliseconds a step, on one thread"""
    date: str
    torch: str
    machine: str


def prepare(objective: str, batch: int) -> tuple[Engine, Iterator[Batch]]:
    """Build a run of XOR as `wb synth` does, with its callbacks but for the evaluation, and its batches."""
    overrides = (f"train.batch={batch}", "train.for=1000 steps")
    name, more = ("clip", ITO) if objective == "ito" else (objective, ())
    parts = build_parts(recipe_of({"name": "xor"}, name, 0, (*overrides, *more)))
    engine = build_engine(parts, Parallel())
    engine.model.train()
    engine.callbacks = [c for c in list_callbacks(parts, engine.parallel, None) if not isinstance(c, Evaluation)]
    for callback in engine.callbacks:
        callback.on_start(engine)
    batches = engine.batches(0)
    return engine, map(show_twice, batches) if objective == "ito" else batches


def show_twice(batch: Batch) -> Batch:
    """Give every sample a second view, which is the first one again."""
    inputs = {m: torch.cat([x, x], 1) for m, x in batch.inputs.items()}
    return Batch(inputs, {m: torch.cat([v, v], 1) for m, v in batch.valid.items()}, batch.ids)


def measure(objective: str, batch: int) -> float:
    """Train for some steps; returns the median of the CPU milliseconds of those behind the first few."""
    torch.set_num_threads(1)
    keep_memory()  # as the command does it
    engine, batches = prepare(objective, batch)
    seconds = []
    for _ in range(WARM + STEPS):
        started = time.process_time()
        engine._take_step(batches)
        seconds.append(time.process_time() - started)
    return 1000 * median(seconds[WARM:])


def measure_in(checkout: Path, objective: str, batch: int) -> float:
    """Run `measure` in a process that imports the code of a checkout. Raises CalledProcessError where it fails."""
    arguments = [sys.executable, __file__, "--measure", objective, str(batch)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    return float(subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def table(rows: Sequence[Measured], other: str) -> str:
    """Write a line for each objective and batch: milliseconds in both, and the median of the rounds' ratios."""
    lines = []
    for objective, batch in dict.fromkeys((row.objective, row.batch) for row in rows):
        these = [row for row in rows if (row.objective, row.batch) == (objective, batch)]
        before, here = ([row.ms for row in these if row.checkout == name] for name in (other, "here"))
        ratio = median(slow / fast for slow, fast in zip(before, here, strict=True))
        lines.append([objective, str(batch), f"{median(before):.1f}", f"{median(here):.1f}", f"{ratio:.2f}"])
    return markdown(["objective", "batch", f"ms, {other}", "ms, here", "ratio"], lines)


@click.command()
@click.option("--out", default="runs/small-steps.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--other", type=click.Path(exists=True, path_type=Path), help="A checkout of another version.")
@click.option("--name", default="other", show_default=True, help="What the other checkout is called in the CSV.")
@click.option("--measure", "one", type=(str, int), hidden=True)
def main(out: Path, rounds: int, other: Path | None, name: str, one: tuple[str, int] | None) -> None:
    """Measure; print a table and write OUT. A minute a round. Without --other both are this checkout: the noise."""
    if one:
        click.echo(measure(*one))
        return
    here = Path(__file__).resolve().parents[2]
    about, rows = (str(date.today()), version("torch"), device_name()), []
    for k in range(rounds):
        for objective in OBJECTIVES:
            for batch in BATCHES:
                for checkout, path in ((name, other or here), ("here", here)):
                    rows.append(Measured(objective, batch, checkout, k, measure_in(path, objective, batch), *about))
        write(rows, out)
    click.echo(table(rows, name))


if __name__ == "__main__":
    main()
