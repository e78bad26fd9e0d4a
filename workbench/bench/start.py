"""What a command costs before its user has anything of it: CPU seconds of processes, beside `import torch`.

Rounds alternate, so that a busy minute of the machine meets all programs alike; a program counts with the median of its
rounds. CPU seconds, as those of the clock are the machine's. `--before` measures another checkout in the same rounds.
The trap: the first round of all reads files from the disk
that later ones find in memory, and is not kept.
"""

from __future__ import annotations

import os
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
UNTIL = """
import os, sys
from workbench import cli
from workbench.cli import pretrain
train, name = pretrain.train_here, sys.argv.pop(1)
def train_to_there(*args):
    from workbench.engine import Engine
    method = getattr(Engine, name)
    def last(*args):
        if name == 'train_step':
            method(*args)
        os._exit(0)
    setattr(Engine, name, last)
    return train(*args)
pretrain.train_here = train_to_there
cli.main()
"""
"""runs `wb pretrain` to the beginning of the loop (fit) or the end of its first step (train_step), and no further"""


def list_programs(runs: Path) -> dict[str, list[str]]:
    """List {name: arguments of python}. The last ones want a run, which the step before them leaves in `runs`."""
    run = str(runs / "run")
    emoji = ("pretrain", "emoji_ito.yaml", "--fresh", "--run", str(runs / "emoji"), "--set", "eval.start=false")
    return {
        TORCH: ["-c", "import torch"],
        "import torch, torch._dynamo": ["-c", "import torch, torch._dynamo"],
        "wb --help": [*WB, "--help"],
        "wb check synth/confu.yaml": [*WB, "check", "synth/confu.yaml"],
        "wb check emoji_ito.yaml": [*WB, "check", "emoji_ito.yaml"],
        "wb pretrain emoji_ito.yaml, until the loop": ["-c", UNTIL, "fit", *emoji],
        "wb pretrain emoji_ito.yaml, until its first step is done": ["-c", UNTIL, "train_step", *emoji],
        "wb pretrain synth/confu.yaml, one step": [
            *WB, "pretrain", "synth/confu.yaml", "--fresh", "--run", run, *ONE_STEP
        ],
        "wb eval": [*WB, "eval", run],
        "wb ls run": [*WB, "ls", "run", "--dir", str(runs)],
        "wb show run": [*WB, "show", "run", run],
        "wb synth --task xor --seeds 1 --jobs 1": [*WB, "synth", "--task", "xor", "--seeds", "1", "--jobs", "1"],
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


def measure(arguments: Sequence[str], checkout: Path | None = None) -> float:
    """Run python with these arguments to its end, on the code of a checkout or on this one's; returns its CPU seconds.

    Raises CalledProcessError.
    """
    environment = os.environ | ({"PYTHONPATH": str(checkout.absolute())} if checkout else {})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # in its folder, as `python -m` looks there first of all
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment, cwd=checkout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each program: its median, and how many times that of importing torch."""
    found = {name: median(r.cpu for r in rows if r.program == name) for name in dict.fromkeys(r.program for r in rows)}
    lines = [[f"`{name}`", f"{cpu:.2f}", f"{cpu / found[TORCH]:.2f}"] for name, cpu in found.items()]
    return markdown(["program", "CPU seconds", "times `import torch`"], lines)


def measure_all(
    programs: Mapping[str, Sequence[str]], rounds: int, before: Path | None = None, out: Path | None = None
) -> list[Measured]:
    """Measure every program in every round, after a round that is not kept; beside each, the same of `before`.

    Whole rounds are written to `out` as they end.
    """
    about = str(date.today()), version("torch"), device_name()
    rows: list[Measured] = []
    for k in range(rounds + 1):
        for name, argv in programs.items():
            found = {name: measure(argv)}
            if before and name != TORCH:
                found[f"before: {name}"] = measure(argv, before)
            rows += [Measured(program, k, cpu, *about) for program, cpu in found.items() if k]
        if out and rows:
            write(rows, out)
    return rows


@click.command()
@click.option("--out", default="runs/start.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--before", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--only", default="", metavar="TEXT", help="Programs whose name has this text, and `import torch`.")
def main(out: Path, rounds: int, before: Path | None, only: str) -> None:
    """Measure; print a table and write OUT. A minute a round, two with --before."""
    with tempfile.TemporaryDirectory() as folder:
        programs = {name: argv for name, argv in list_programs(Path(folder)).items() if only in name or name == TORCH}
        rows = measure_all(programs, rounds, before, out)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
