"""Which batch fits in which memory, for whole towers of open_clip, counted as `wb pretrain --dry` counts it.

No GPU is asked: steps of two batches are taken on tensors without values, and activations lie on the line through
both. `--check` measures the peak of real steps on the CPU beside the same count. The trap: the count
has neither the loss's own memory, nor a CUDA context, nor what an allocator cuts off, so a part of a GPU stays free.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from workbench.bench.rows import markdown, read, write
from workbench.engine import Engine
from workbench.loading.feed import Feed
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.cost import Cost, cost
from workbench.runs.folder import package_version
from workbench.types import Batch, Modality

MODELS, MEMORIES = ("ViT-B-32", "ViT-B-16", "ViT-L-14"), (8, 24, 80)
"""models of open_clip; GiB of a GPU"""
FREE = 0.1
"""part of a GPU that is left to the loss, the CUDA context and the allocator"""
STRATEGIES = {"1": (1, 1), "8, ddp": (8, 1), "8, fsdp": (8, 8)}
"""{name: (GPUs, over how many of them weights, gradients and moments are divided)}"""
MICROBATCH, PROBES, STEP = 64, (64, 256), 8
"""samples a GPU: of a micro-batch, in the two fake steps, and what the answer is a multiple of"""
FITS_HEAD = ("model", "GPUs", "recomputes", "GB of states each", *(f"batch a GPU in {gib} GB" for gib in MEMORIES))
CHECK_HEAD = ("model", "precision", "batch", "micro-batch", "recomputes", "counted", "measured", "ratio", "in the heap")
CHECKS: tuple[tuple[str, str, int, int | None, bool], ...] = (
    ("ViT-B-32", "fp32", 16, None, False),
    ("ViT-B-32", "fp32", 16, None, True),
    ("ViT-B-32", "fp32", 32, 16, False),
    ("ViT-B-32", "bf16", 8, None, False),
    ("ViT-B-16", "fp32", 8, None, False),
    ("ViT-B-16", "fp32", 8, None, True),
    ("ViT-L-14", "fp32", 4, None, False),
)
"""steps that a CPU takes in a minute and 8 GiB: model, precision, batch, micro-batch, whether blocks are recomputed"""


class NoPairs:
    """Pairs of a picture and a text, for a recipe of which no batch is taken."""

    def __init__(self) -> None:
        self.modalities: Mapping[str, Modality] = {m: Modality(m) for m in ("image", "text")}

    def __len__(self) -> int:
        return max(PROBES)

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        raise RuntimeError("these pairs are there to be counted: a recipe that reads them names other data")


@dataclass(frozen=True)
class Fit:
    """A line of the first CSV: the largest batch of one GPU, in one way of training."""

    date: str
    versions: str
    model: str
    precision: str
    gpus: str
    recomputes: int
    """1 with grad_checkpointing in both towers"""
    gib: int
    state_mib: float
    """weights, gradients and moments that each GPU holds"""
    whole: int
    """samples that it can embed at once, which are its whole batch; 0 where not even STEP fit"""
    batch: int
    """samples of its batch, embedded by micro-batches of MICROBATCH"""


@dataclass(frozen=True)
class Checked:
    """A line of the second CSV: a real step on the CPU beside its count."""

    date: str
    versions: str
    model: str
    precision: str
    batch: int
    microbatch: int | None
    recomputes: int
    counted_mib: float
    """for a step: activations, gradients, inputs, embeddings"""
    blocks_mib: float
    """what the process grew by at most above weights and moments, the loss included, every block of memory by itself"""
    heap_mib: float
    """the same in glibc's heap, as `wb pretrain` has it"""
    state_mib: float
    """of weights and moments, which both have alike"""


def describe(
    model: str, batch: int, *, microbatch: int | None = None, recomputes: bool = False, precision: str = "bf16"
) -> Recipe:
    """Write the recipe of CLIP with the towers of a model of open_clip, on pairs that nobody reads."""
    import open_clip

    config: Any = open_clip.get_model_config(model)
    towers = {"image": config["vision_cfg"], "text": config["text_cfg"]}
    encoders = {
        m: {"name": "open_clip", "config": tower, "grad_checkpointing": recomputes} for m, tower in towers.items()
    }
    train = {"for": "10 steps", "batch": batch, "microbatch": microbatch, "precision": precision}
    return parse_recipe(
        {
            "name": "batch-fits",
            "data": "workbench.bench.batch_fits:NoPairs",
            "model": {"dim": config["embed_dim"], "encoders": encoders},
            "objective": "clip",
            "train": train,
        }
    )


def find_fits(model: str, recomputes: bool, precision: str) -> Iterator[Fit]:
    """Find the largest batches for each memory and each number of GPUs."""
    small, large = (cost(describe(model, n, recomputes=recomputes, precision=precision)) for n in PROBES)
    tree = describe(model, 8 * PROBES[0], precision=precision)
    divided = cost(tree.model_copy(update={"parallel": tree.parallel.model_copy(update={"strategy": "fsdp"})}), 8)
    for gpus, (number, shares) in STRATEGIES.items():

        def memory(each: int, at_once: int, number: int = number, shares: int = shares) -> float:
            return _combine(small, large, divided, each, at_once, number, shares).memory_bytes

        for gib in MEMORIES:
            whole = _largest((1 - FREE) * gib * 2**30, lambda n, memory=memory: memory(STEP * n, STEP * n))
            split = _largest((1 - FREE) * gib * 2**30, lambda n, memory=memory: memory(MICROBATCH * n, MICROBATCH))
            yield Fit(
                date.today().isoformat(),
                versions(),
                model,
                precision,
                gpus,
                int(recomputes),
                gib,
                small.state_bytes / shares / 2**20,
                STEP * whole,
                MICROBATCH * split,
            )


def _combine(small: Cost, large: Cost, divided: Cost, each: int, at_once: int, number: int, shares: int) -> Cost:
    """Put together the cost of a batch from those of the fake steps: activations lie on a line."""
    gradients = 4 * (small.total_parameters - small.total_frozen)

    def at(name: str) -> int:
        low, high = getattr(small, name), getattr(large, name)
        return int(low + (high - low) / (PROBES[1] - PROBES[0]) * (at_once - PROBES[0]))

    return replace(
        small,
        activation_bytes=max(0, at("activation_bytes")),
        spared_bytes=min(max(0, at("spared_bytes")), gradients) if number == 1 and each == at_once else 0,
        gathered_bytes=divided.gathered_bytes if shares > 1 else 0,
        batch=each * number,
        samples_at_once=at_once * number,
        processes=number,
        shares=shares,
    )


def _largest(room: float, memory: Callable[[int], float]) -> int:
    """Find the largest number whose memory is no more than the room; 0 where not even that of 1 is."""
    high = 1
    while memory(high) <= room:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory(middle) <= room else (low, middle)
    return low


def check(model: str, precision: str, batch: int, microbatch: int | None, recomputes: bool) -> Checked:
    """Count a step, and take it in two processes of their own, so that no peak is that of an earlier one."""
    import torch

    settings = {"microbatch": microbatch, "recomputes": recomputes, "precision": precision}
    found = cost(describe(model, batch, **settings))
    states = 12 * (found.total_parameters - found.total_frozen) + 4 * found.total_frozen
    blocks, heap = (_measure_alone(model, batch, settings, kept) for kept in (False, True))
    return Checked(
        date.today().isoformat(),
        f"{versions()} {torch.get_num_threads()} threads",
        model,
        precision,
        batch,
        microbatch,
        int(recomputes),
        (found.memory_bytes - states) / 2**20,
        blocks / 2**20,
        heap / 2**20,
        states / 2**20,
    )


def _measure_alone(model: str, batch: int, settings: Mapping[str, Any], kept: bool) -> int:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, model, batch, settings, kept).result()


def measure(model: str, batch: int, settings: Mapping[str, Any], kept: bool) -> int:
    """Take a real step in this process; returns the bytes that it grew by at most.

    With `kept`, glibc keeps what is freed, as commands that train ask for. Else every larger block is mapped by itself
    and given back when it is freed, so that what is resident is what lives.
    """
    from kernels.bench import resident
    from workbench.build import build_engine, build_parts
    from workbench.distributed.processes import Parallel
    from workbench.training.allocator import MMAP_THRESHOLD, keep_memory

    if kept:
        keep_memory()
    else:
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)
    engine = build_engine(build_parts(describe(model, batch, **settings)), Parallel())
    engine.model.train()
    engine.train_step(_noise(engine, 2))  # which loads libraries and makes the optimizer's state
    base, inputs = resident.reset_peak(), _noise(engine, engine.batch)
    engine.train_step(inputs)
    return resident.peak() - base


def _noise(engine: Engine, n: int) -> Batch:
    """Draw n samples as the feed hands them to a step."""
    import torch

    encoders: Any = engine.model.encoders
    size, length = encoders["image"].tower.image_size, encoders["text"].context_length
    images = torch.randint(256, (n, 1, 3, *size), dtype=torch.uint8)
    valid = torch.ones(n, 1, dtype=torch.bool)
    texts = torch.randint(1, 49406, (n, 1, length))
    texts[..., -1] = 49407  # texts that fill their context: a fake step knows no others
    return Batch({"image": images, "text": texts}, {"image": valid, "text": valid}, torch.arange(n))


def versions() -> str:
    return " ".join(f"{name}={package_version(name)}" for name in ("torch", "open_clip_torch"))


def fits_table(rows: Sequence[Fit]) -> str:
    """Write a line for each model and way of training: whole batches, then batches by micro-batches."""
    keys = dict.fromkeys((row.model, row.gpus, row.recomputes) for row in rows)
    return markdown(FITS_HEAD, (_fits_line(rows, *key) for key in keys))


def _fits_line(rows: Sequence[Fit], model: str, gpus: str, recomputes: int) -> list[str]:
    same = [row for row in rows if (row.model, row.gpus, row.recomputes) == (model, gpus, recomputes)]
    cells = [f"{row.whole:,}; {row.batch:,}" if row.batch or row.whole else "none" for row in same]
    return [model, gpus, "yes" if recomputes else "no", f"{same[0].state_mib / 1024:.1f}", *cells]


def check_table(rows: Sequence[Checked]) -> str:
    """Write a line for each measured step."""
    return markdown(CHECK_HEAD, map(_check_line, rows))


def _check_line(row: Checked) -> list[str]:
    what = [row.model, row.precision, f"{row.batch}", f"{row.microbatch or 'none'}", "yes" if row.recomputes else "no"]
    ratio = row.blocks_mib / row.counted_mib
    return [*what, f"{row.counted_mib:,.0f}", f"{row.blocks_mib:,.0f}", f"{ratio:.3f}", f"{row.heap_mib:,.0f}"]


@click.command()
@click.option("--out", default="runs/batch_fits.csv", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--check", "measured", is_flag=True, help="Measure real steps on this CPU instead; what OUT has is not done again."
)
@click.option("--model", "models", multiple=True, help="A model of open_clip; default: ViT-B-32, ViT-B-16, ViT-L-14.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", show_default=True)
def main(out: Path, measured: bool, models: tuple[str, ...], precision: str) -> None:
    """Count (or measure), print a table, write OUT. Two minutes of a core; --check five, and 9 GiB."""
    if measured:
        lines = read(out, Checked)
        done = {(row.model, row.precision, row.batch, row.microbatch, bool(row.recomputes)) for row in lines}
        for case in (c for c in CHECKS if c not in done and (not models or c[0] in models)):
            lines.append(check(*case))
            write(lines, out)
            click.echo(check_table(lines[-1:]).splitlines()[-1], err=True)
        click.echo(check_table(lines))
        return
    rows: list[Fit] = []
    for model in models or MODELS:
        for recomputes in (False, True):
            rows += find_fits(model, recomputes, precision)
            write(rows, out)
            click.echo(f"{model}: {len(rows)} lines", err=True)
    click.echo(fits_table(rows))


if __name__ == "__main__":
    main()
