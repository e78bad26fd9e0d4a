"""Everything that a GPU is needed for, in one session of some minutes: check, tune, compare, set forecasts beside what
was measured, profile.

    python -m kernels.bench.gpu --out DIR [--minutes 9]

DIR gets results.csv, sweep.csv, predicted.csv, plot.png, report.md and environment.json. Each stage ends in its
share of the time, and the report names what was not reached. Without a CUDA device it says so and exits with 2.

Trap: numbers of kernels that are wrong are worth nothing, so a check that fails ends the session (exit code 1).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from kernels.bench import report
from kernels.bench.session import run_stages
from kernels.bench.stages import Session
from kernels.bench.worker import Worker


def main(arguments: list[str] | None = None) -> int:
    """Runs the session; returns 0 when it came to its end, 1 when a check stopped it, 2 without a CUDA device."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found; made if it is not there")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which it ends")
    parser.add_argument("--stages", help="some of correctness,sweep,measure,forecast,profile; all by default")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("python -m kernels.bench.gpu needs a CUDA device, and torch sees none here", file=sys.stderr)  # noqa: T201
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    session = Session(args.out, lambda: Worker("cuda", 1), tell=lambda text: console.print(text, markup=False))
    stages = session.stages()
    if args.stages:
        chosen = args.stages.split(",")
        if unknown := set(chosen) - {stage.name for stage in stages}:
            parser.error(f"--stages has {', '.join(unknown)}: choose among {', '.join(stage.name for stage in stages)}")
        stages = [stage for stage in stages if stage.name in chosen]

    def tell(seconds: float, text: str) -> None:
        console.print(f"{int(seconds) // 60:2d}:{int(seconds) % 60:02d}  {text}", markup=False, style="bold")

    timeline = run_stages(stages, 60 * args.minutes, tell)
    report.write(args.out, session.found, timeline)
    console.print(f"report: {args.out / 'report.md'}", markup=False)
    return 1 if timeline.stopped else 0


if __name__ == "__main__":
    sys.exit(main())
