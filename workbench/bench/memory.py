"""How a training step's memory grows with the contrastive batch and the micro-batch, of tiny towers on the CPU.

ITO has two views of a picture and a text, ConFu and its chain a picture and two texts: three modalities.

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

from workbench.bench.panels import QUIET, draw_line, dress, three_panels
from workbench.bench.rows import markdown, write
from workbench.loading.feed import Feed
from workbench.recipe.yaml_file import Tree
from workbench.types import Batch, Modality

COLOURS = {"ito": "#8250df", "confu": "#0b7a6f", "confu_chain": "#d9480f"}
STYLES = {None: "-", 512: "--", 2048: ":"}
HEAD = ("objective", "batch", "micro-batch", "MiB a step", "GiB of the process", "s a step", "of it the loss")

BATCHES = (512, 2048, 8192, 32768)
MICROBATCHES = {"ito": (None, 512, 2048), "confu": (None, 512), "confu_chain": (None, 512)}
VIEWS, SIZE, LENGTH, DIM, CONCEPTS = 2, 32, 8, 32, 4096
DATA = {"ito": (VIEWS, ["text"]), "confu": (1, ["text", "german"]), "confu_chain": (1, ["text", "german"])}
"""{objective: (views of a picture, texts)}"""
WARM = 64
"""samples of a first step, which loads libraries and makes the optimizer's state"""
IMAGE = {
    "name": "open_clip",
    "config": {"image_size": SIZE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
}
TEXT = {"name": "open_clip", "config": {"context_length": LENGTH, "width": 32, "heads": 2, "layers": 1}}


def recipe(objective: str, batch: int, microbatch: int | None) -> Tree:
    """Write the recipe of one step."""
    views, texts = DATA[objective]
    encoders = {"image": IMAGE} | dict.fromkeys(texts, TEXT)
    fusion = {"name": "transformer", "layers": 1, "heads": 2} if objective == "ito" else {"name": "mlp", "hidden": DIM}
    return {
        "name": "memory",
        "data": {"name": "workbench.bench.memory:Noise", "views": views, "texts": texts},
        "model": {"dim": DIM, "encoders": encoders, "fusion": fusion},
        "objective": objective,
        "train": {"for": "2 steps", "batch": batch, "microbatch": microbatch},
    }


class Noise:
    """Views of SIZE x SIZE random bytes and texts of random ids; every concept comes again after CONCEPTS samples."""

    def __init__(self, *, views: int, texts: list[str]) -> None:
        self.views, self.texts = views, texts
        self.modalities: Mapping[str, Modality] = {
            "image": Modality("image", count=views),
            **{name: Modality("text") for name in texts},
        }

    def __len__(self) -> int:
        return max(BATCHES)

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        while True:
            yield self.draw(feed.batch)

    def draw(self, n: int) -> Batch:
        """Draw n samples as the feed hands them to a step: images are bytes."""
        generator = torch.Generator().manual_seed(n)
        inputs = {"image": torch.randint(256, (n, self.views, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)}
        for name in self.texts:
            inputs[name] = torch.randint(1, 49406, (n, 1, LENGTH), generator=generator)
            inputs[name][..., 0], inputs[name][..., -1] = 49406, 49407
        valid = {name: torch.ones(x.shape[:2], dtype=torch.bool) for name, x in inputs.items()}
        return Batch(inputs, valid, torch.arange(n) % CONCEPTS)


@dataclass(frozen=True)
class Measured:
    """A line of the CSV."""

    objective: str
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


def measure(objective: str, batch: int, microbatch: int | None) -> Measured:
    """Measure one step, in this process."""
    from kernels.bench import resident
    from workbench.build import build_engine, build_parts
    from workbench.distributed.processes import Parallel
    from workbench.recipe.schema import parse_recipe
    from workbench.training.allocator import keep_memory

    keep_memory()  # as the command does it
    torch.set_num_threads(1)  # the processor's time is then that of a core that has nothing else to do
    engine = build_engine(build_parts(parse_recipe(recipe(objective, batch, microbatch))), Parallel())
    views, texts = DATA[objective]
    draw = Noise(views=views, texts=texts).draw
    clock = [0.0, 0.0]
    engine.objective.register_forward_pre_hook(lambda *_: clock.__setitem__(0, time.process_time()))
    engine.objective.register_forward_hook(lambda *_: clock.__setitem__(1, time.process_time()))
    engine.model.train()
    engine.train_step(draw(WARM))
    base = resident.reset_peak()
    inputs = draw(batch)
    started = time.process_time()
    engine.train_step(inputs)
    seconds = time.process_time() - started
    peak = resident.peak()
    share = (clock[1] - clock[0]) / seconds
    return Measured(objective, batch, microbatch, (peak - base) / 2**20, peak / 2**20, seconds, share)


def measure_alone(objective: str, batch: int, microbatch: int | None) -> Measured:
    """Measure one step in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, objective, batch, microbatch).result()


def points(largest: int) -> Iterator[tuple[str, int, int | None]]:
    """Yield objective, batch and micro-batch of what is measured, up to a batch."""
    for objective, microbatches in MICROBATCHES.items():
        for batch in (b for b in BATCHES if b <= largest):
            for microbatch in microbatches:
                if microbatch is None or microbatch < batch:
                    yield objective, batch, microbatch


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each point."""
    return markdown(HEAD, map(_line, rows))


def _line(row: Measured) -> list[str]:
    memory = [f"{row.step_mib:,.0f}", f"{row.process_mib / 1024:.2f}"]
    point = [row.objective, f"{row.batch}", f"{row.microbatch or 'none'}"]
    return [*point, *memory, f"{row.seconds:.1f}", f"{row.loss_share:.0%}"]


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
    dense = [(VIEWS * batch) ** 2 * 4 / 2**20 for batch in batches]
    low, high = memory.get_ylim()
    memory.plot(batches, dense, color=QUIET, lw=1, label="ITO's fused logits, dense")
    memory.set_ylim(low, max(high, 1.3 * dense[-1]))
    memory.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, rows: Sequence[Measured], name: str, title: str) -> None:
    for line in dict.fromkeys((row.objective, row.microbatch) for row in rows):
        objective, microbatch = line
        points = {row.batch: getattr(row, name) for row in rows if (row.objective, row.microbatch) == line}
        label = f"{objective}, micro-batch {microbatch}" if microbatch else f"{objective}, encoded whole"
        draw_line(axes, points, COLOURS[objective], label, STYLES[microbatch])
    batches = sorted({row.batch for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, map(str, batches))
    axes.minorticks_off()
    dress(axes, title, "contrastive batch")


@click.command()
@click.option("--out", default="runs/memory.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--largest", default=max(BATCHES), show_default=True, type=click.IntRange(min=512), help="Batch.")
def main(out: Path, largest: int) -> None:
    """Measure; print a table, write OUT and a plot beside it. Ten minutes of one core."""
    rows: list[Measured] = []
    for objective, batch, microbatch in points(largest):
        rows.append(measure_alone(objective, batch, microbatch))
        write(rows, out)
        click.echo(table(rows[-1:]).splitlines()[-1], err=True)
    click.echo(table(rows))
    plot(rows, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
