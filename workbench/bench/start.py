"""What a command costs before its user has anything of it: CPU seconds of whole processes, beside `import torch`.

Rounds alternate, so that a busy minute of the machine meets all programs alike; a program counts with the median of its
rounds. CPU seconds, as those of the clock are the machine's. The trap: the first round of all reads files from the disk
that later ones find in memory, and is not kept.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click

from workbench.bench.rows import device_name, markdown, write

TORCH = "import torch"
WB = ("-m", "workbench")
ONE_STEP = ("--set", "train.for=1 steps", "--set", "eval.every=1 steps")


def list_programs(runs: Path) -> dict[str, list[str]]:
    """List {name: arguments of python}. The last ones want a run, which the step before them leaves in `runs`."""
    run = str(runs / "run")
    return {
        TORCH: ["-c", "import torch"],
        "import torch, torch._dynamo": ["-c", "import torch, torch._dynamo"],
        "wb --help": [*WB, "--help"],
        "wb check synth/confu.yaml": [*WB, "check", "synth/confu.yaml"],
        "wb check emoji_ito.yaml": [*WB, "check", "emoji_ito.yaml"],
        "wb pretrain synth/confu.yaml, one step": [
            *WB, "pretrain", "synth/confu.yaml", "--fresh", "--run", run, *ONE_STEP
        ],
        "wb eval": [*WB, "eval", run],
        "wb ls run": [*WB, "ls", "run", "--dir", str(runs)],
        "wb show run": [*WB, "show", "run", run],
    }  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A line of the CSV."""

    program: str
    round: int
    cpu: float
    """CPU seconds, user and system"""
    date: str
    torch: str
    machine: str


def measure(arguments: Sequence[str]) -> float:
    """Run python with these arguments to its end; returns its CPU seconds. Raises CalledProcessError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each program: its median, and how many times that of importing torch."""
    found = {name: median(r.cpu for r in rows if r.program == name) for name in dict.fromkeys(r.program for r in rows)}
    lines = [[f"`{name}`", f"{cpu:.2f}", f"{cpu / found[TORCH]:.2f}"] for name, cpu in found.items()]
    return markdown(["program", "CPU seconds", "times `import torch`"], lines)


def measure_all(programs: Mapping[str, Sequence[str]], rounds: int) -> list[Measured]:
    """Measure every program in every round, after a round that is not kept."""
    about = str(date.today()), version("torch"), device_name()
    rows = [Measured(name, k, measure(argv), *about) for k in range(rounds + 1) for name, argv in programs.items()]
    return [row for row in rows if row.round]


@click.command()
@click.option("--out", default="runs/start.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
def main(out: Path, rounds: int) -> None:
    """Measure; print a table and write OUT. A quarter of a minute a round."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_all(list_programs(Path(folder)), rounds)
    write(rows, out)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
