"""How a training step's memory grows with the contrastive batch and the micro-batch: ITO on tiny towers, on the CPU.

Every point has a process of its own, so that no peak is that of an earlier one. The inputs are noise, made at once:
what is measured is a step, not a disk. The trap: with a micro-batch, encoding needs no more memory in a larger batch,
but the loss compares all pairs of it, so its time is quadratic, and in the largest batches it is most of the step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import torch
from matplotlib.axes import Axes

from workbench.bench.panels import INK, QUIET, draw_line, dress, three_panels
from workbench.bench.rows import markdown, write
from workbench.loading.feed import Feed
from workbench.types import Batch, Modality

COLOURS = {None: "#8250df", 512: "#0b7a6f", 2048: "#d9480f"}
HEAD = ("batch", "micro-batch", "MiB a step", "GiB of the process", "s a step", "of it the loss")

BATCHES, MICROBATCHES = (512, 2048, 8192, 32768), (None, 512, 2048)
VIEWS, SIZE, LENGTH, CONCEPTS = 2, 32, 8, 4096
WARM = 64
"""samples of a first step, which loads libraries and makes the optimizer's state"""
RECIPE = {
    "name": "memory",
    "data": "workbench.bench.memory:Noise",
    "model": {
        "dim": 32,
        "encoders": {
            "image": {
                "name": "open_clip",
                "config": {"image_size": SIZE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
            },
            "text": {"name": "open_clip", "config": {"context_length": LENGTH, "width": 32, "heads": 2, "layers": 1}},
        },
        "fusion": {"name": "transformer", "layers": 1, "heads": 2},
    },
    "objective": "ito",
}


class Noise:
    """Two views of SIZE x SIZE random bytes and a text of random ids; every concept comes again after CONCEPTS."""

    def __init__(self) -> None:
        self.modalities: Mapping[str, Modality] = {"image": Modality("image", count=VIEWS), "text": Modality("text")}

    def __len__(self) -> int:
        return max(BATCHES)

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        while True:
            yield noise(feed.batch)


def noise(n: int) -> Batch:
    """Draw n samples as the feed hands them to a step: images are bytes."""
    draw = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, VIEWS, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    texts = torch.randint(1, 49406, (n, 1, LENGTH), generator=draw)
    texts[..., 0], texts[..., -1] = 49406, 49407
    valid = {"image": torch.ones(n, VIEWS, dtype=torch.bool), "text": torch.ones(n, 1, dtype=torch.bool)}
    return Batch({"image": images, "text": texts}, valid, torch.arange(n) % CONCEPTS)


@dataclass(frozen=True)
class Measured:
    """A line of the CSV."""

    batch: int
    microbatch: int | None
    step_mib: float
    """what the process grew by in a step and its inputs, on top of weights and optimizer state"""
    process_mib: float
    """the most it had, Python and torch included"""
    seconds: float
    """of that step, on one core"""
    loss_share: float
    """of these seconds, those in the objective, which computes its gradients together with its value"""


def measure(batch: int, microbatch: int | None) -> Measured:
    """Measure one step, in this process."""
    from kernels.bench import resident
    from workbench.build import build_engine, build_parts
    from workbench.distributed.processes import Parallel
    from workbench.recipe.schema import parse_recipe
    from workbench.training.allocator import keep_memory

    keep_memory()  # as the command does it
    torch.set_num_threads(1)  # the processor's time is then that of a core that has nothing else to do
    train = {"for": "2 steps", "batch": batch, "microbatch": microbatch}
    engine = build_engine(build_parts(parse_recipe(RECIPE | {"train": train})), Parallel())
    clock = [0.0, 0.0]
    engine.objective.register_forward_pre_hook(lambda *_: clock.__setitem__(0, time.process_time()))
    engine.objective.register_forward_hook(lambda *_: clock.__setitem__(1, time.process_time()))
    engine.model.train()
    engine.train_step(noise(WARM))
    base = resident.reset_peak()
    inputs = noise(batch)
    started = time.process_time()
    engine.train_step(inputs)
    seconds = time.process_time() - started
    peak = resident.peak()
    return Measured(batch, microbatch, (peak - base) / 2**20, peak / 2**20, seconds, (clock[1] - clock[0]) / seconds)


def measure_alone(batch: int, microbatch: int | None) -> Measured:
    """Measure one step in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, batch, microbatch).result()


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each point."""
    return markdown(HEAD, map(_line, rows))


def _line(row: Measured) -> list[str]:
    memory = [f"{row.step_mib:,.0f}", f"{row.process_mib / 1024:.2f}"]
    return [f"{row.batch}", f"{row.microbatch or 'none'}", *memory, f"{row.seconds:.1f}", f"{row.loss_share:.0%}"]


def plot(rows: Sequence[Measured], path: Path) -> None:
    """Draw memory, time and the loss's share of it against the batch; beside memory, that of one matrix of logits."""
    figure, (memory, time, share) = three_panels()
    _panel(memory, rows, "step_mib", "MiB a step, inputs included")
    _panel(time, rows, "seconds", "seconds a step, one core")
    _panel(share, rows, "loss_share", "share of it in the loss")
    for axes in (memory, time):
        axes.set_yscale("log")
    share.set_ylim(0, 1)
    batches = sorted({row.batch for row in rows})
    dense = [(2 * batch) ** 2 * 4 / 2**20 for batch in batches]
    low, high = memory.get_ylim()
    memory.plot(batches, dense, color=QUIET, lw=1, ls=":", label="one matrix of logits")
    memory.set_ylim(low, max(high, 1.3 * dense[-1]))
    memory.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, rows: Sequence[Measured], name: str, title: str) -> None:
    for microbatch in dict.fromkeys(row.microbatch for row in rows):
        points = dict(sorted((row.batch, getattr(row, name)) for row in rows if row.microbatch == microbatch))
        label = f"micro-batch {microbatch}" if microbatch else "encoded whole"
        draw_line(axes, points, COLOURS.get(microbatch, INK), label)
    batches = sorted({row.batch for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, map(str, batches))
    axes.minorticks_off()
    dress(axes, title, "contrastive batch")


@click.command()
@click.option("--out", default="runs/memory.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--largest", default=max(BATCHES), show_default=True, type=click.IntRange(min=512), help="Batch.")
def main(out: Path, largest: int) -> None:
    """Measure; print a table, write OUT and a plot beside it. Five minutes of one core."""
    rows: list[Measured] = []
    for batch in (b for b in BATCHES if b <= largest):
        for microbatch in MICROBATCHES:
            if microbatch is None or microbatch < batch:
                rows.append(measure_alone(batch, microbatch))
                write(rows, out)
                click.echo(table(rows[-1:]).splitlines()[-1], err=True)
    click.echo(table(rows))
    plot(rows, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
