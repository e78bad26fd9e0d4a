"""Samples a second of `wb pretrain` against open_clip's own trainer: same towers, same tars, one machine, one sitting.

Rounds alternate between the programs, so that what else the machine does meets both; every round is a process of its
own, and the ratio is the median of the rounds' ratios. The `ito` line has no peer and is reported alone. The trap: the
pictures are packaged emoji of 64 x 64 pixels, so decoding costs less here than that of photographs.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click

from workbench.bench.loader import find_missing_peer
from workbench.bench.rows import device_name, markdown, read, write
from workbench.bench.train_programs import Round, Setting, run_ours, run_theirs, write_recipe
from workbench.recipe.schema import parse_recipe
from workbench.runs.cost import PEAK, cost
from workbench.runs.folder import package_version

PEER = "open_clip_train"
HEAD = ("model", "batch", "precision", "program", "samples/s", f"against {PEER}", "data wait", "memory, MiB", "MFU")

TARS, PACKAGES = 250, ("torch", "open_clip_torch", "multimodal-workbench")
"""drawings a tar, so that every worker has some; packages whose versions are written down"""
ON_CUDA, ON_CPU = {"ViT-B-16": 512, "ViT-L-14": 256}, {"tiny": 128}
"""{model: batch}"""


@dataclass(frozen=True)
class Row:
    """A line of the CSV: a round of one program."""

    date: str
    device: str
    versions: str
    model: str
    batch: int
    precision: str
    workers: int
    program: str
    round: int
    samples_per_second: float
    data_wait: float
    """share of the time"""
    peak_mib: float
    mfu: float | None
    """share of an H100's or H200's 989 TFLOP/s (dense bf16): FLOPs of forward and backward as `--dry` counts them"""


def measure(setting: Setting, tars: Path, scratch: Path, rounds: range, ito: bool) -> Iterator[Row]:
    """Run each of these rounds of each program, in turns."""
    programs = {
        "wb pretrain": lambda folder: run_ours(setting, tars, folder),
        "open_clip_train": lambda folder: run_theirs(setting, tars, folder),
    }
    if ito:
        programs["wb pretrain, ito"] = lambda folder: run_ours(setting, tars, folder, "ito")
    flops = {name: _flops(setting, tars, "ito" if name.endswith("ito") else "clip") for name in programs}
    for number in rounds:
        for name, run in programs.items():
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                yield _row(setting, name, number, run(Path(folder)), flops[name])


def _flops(setting: Setting, tars: Path, objective: str) -> float:
    return cost(parse_recipe(write_recipe(setting, tars, objective))).flops_per_sample


def _row(setting: Setting, program: str, number: int, seen: Round, flops: float) -> Row:
    return Row(
        date=date.today().isoformat(),
        device=device_name(setting.device),
        versions=" ".join(f"{name}={package_version(name)}" for name in PACKAGES),
        model=setting.model,
        batch=setting.batch,
        precision=setting.precision,
        workers=setting.workers,
        program=program,
        round=number,
        samples_per_second=round(seen.samples_per_second, 2),
        data_wait=round(seen.waited, 4),
        peak_mib=round(seen.peak_bytes / 2**20, 1),
        mfu=round(seen.samples_per_second * flops / PEAK, 4) if setting.device == "cuda" else None,
    )


def settings(
    models: Sequence[str], batch: int | None, precision: str | None, workers: int | None, steps: int | None
) -> list[Setting]:
    """Choose what is measured on this machine; what was asked for wins."""
    import torch

    on_cuda = torch.cuda.is_available()
    batches = ON_CUDA if on_cuda else ON_CPU
    every = 20 if on_cuda else 5
    usual = min(16, os.cpu_count() or 1) if on_cuda else 2
    return [
        Setting(
            model,
            batch or batches.get(model, 256),
            precision or ("bf16" if on_cuda else "fp32"),
            usual if workers is None else workers,
            steps or 8 * every,
            every,
            "cuda" if on_cuda else "cpu",
        )
        for model in models or batches
    ]


def table(rows: Sequence[Row]) -> str:
    """Write a line for each model and program; the ratio is the median of the rounds' ratios."""
    keys = dict.fromkeys((row.model, row.batch, row.precision, row.program) for row in rows)
    return markdown(HEAD, (_line(_of_setting(rows, m, b, p), program) for m, b, p, program in keys))


def _of_setting(rows: Sequence[Row], model: str, batch: int, precision: str) -> list[Row]:
    return [row for row in rows if (row.model, row.batch, row.precision) == (model, batch, precision)]


def ratio(rows: Sequence[Row], program: str) -> float | None:
    """Return the median of the ratios to the peer, of the rounds of one setting; None where there is none: it is one
    itself, or trains something else."""
    peer = {row.round: row.samples_per_second for row in rows if row.program == PEER}
    own = {row.round: row.samples_per_second for row in rows if row.program == program}
    both = own.keys() & peer.keys()
    return statistics.median(own[n] / peer[n] for n in both) if both and program == "wb pretrain" else None


def _line(rows: Sequence[Row], program: str) -> list[str]:
    same = [row for row in rows if row.program == program]
    first, against = same[0], ratio(rows, program)
    speed, waited, memory = (
        statistics.median(getattr(row, name) for row in same)
        for name in ("samples_per_second", "data_wait", "peak_mib")
    )
    mfu = [row.mfu for row in same if row.mfu is not None]
    return [
        first.model,
        str(first.batch),
        first.precision,
        program,
        f"{speed:.0f}",
        f"{against:.2f} x" if against else "",
        f"{waited:.1%}",
        f"{memory:.0f}",
        f"{statistics.median(mfu):.1%}" if mfu else "",
    ]


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    help="tiny, or one of open_clip, also as ViT-B-32@112; default: tiny, or two.",
)
@click.option("--batch", type=click.IntRange(min=2), help="Default: 128 for tiny, 512 for ViT-B-16, 256 for others.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Default: fp32 on the CPU, bf16 on a GPU.")
@click.option("--workers", type=click.IntRange(min=1), help="Data workers of each; default: 2, on a GPU the cores.")
@click.option("--steps", type=click.IntRange(min=1), help="Of a round; default: 40, on a GPU 160.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Of each program.")
@click.option("--ito/--no-ito", default=True, show_default=True, help="Measure our ito objective, too.")
@click.option("--out", default="runs/bench-train.csv", show_default=True, type=click.Path(path_type=Path))
def main(
    models: tuple[str, ...],
    batch: int | None,
    precision: str | None,
    workers: int | None,
    steps: int | None,
    rounds: int,
    ito: bool,
    out: Path,
) -> None:
    """Measure, print a table, write OUT; what OUT has is kept, and more rounds are added. Ten minutes of two cores."""
    from workbench.builders.emoji_shards import build

    if complaint := find_missing_peer():
        raise click.ClickException(complaint)
    chosen = settings(models, batch, precision, workers, steps)
    for setting in chosen:
        if setting.steps < 3 * setting.every:
            raise click.UsageError(f"--steps {setting.steps}: three looks at the clock need {3 * setting.every}")
        try:
            _ = setting.config
        except ValueError as error:
            raise click.ClickException(str(error)) from None
    rows = read(out, Row)
    with tempfile.TemporaryDirectory() as scratch:
        tars = Path(scratch) / "tars"
        build(tars, shard=TARS, texts_each=1)  # open_clip takes a .txt as one text
        for setting in chosen:
            done = [row.round for row in _of_setting(rows, setting.model, setting.batch, setting.precision)]
            begin = max(done, default=-1) + 1
            for row in measure(setting, tars, Path(scratch), range(begin, begin + rounds), ito):
                rows.append(row)
                write(rows, out)
                click.echo(f"{row.model}, round {row.round}, {row.program}: {row.samples_per_second}/s", err=True)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
