"""Time, memory and errors of the losses against their peers, in one run.

    python -m kernels.bench

On a GPU in bfloat16 at pretraining sizes, else on the CPU in float32 at sizes for a CPU. Prints a table, appends rows
to results.csv and draws what is there as plot.png beside it, so that a long run may be made of short ones. Peers that
are not installed are left out, with a line that says so.

Trap: on a busy machine seconds mean little and ratios of them not much more (the column `load` says how busy it was);
memory and errors do not mind.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from kernels.bench import table
from kernels.bench.cases import (
    CPU_DIMS,
    CPU_LOSSES,
    CPU_PLAN,
    CPU_SIZES,
    GPU_PLAN,
    LARGE,
    list_cpu_workloads,
    list_gpu_workloads,
)
from kernels.bench.compare import Comparison, compare
from kernels.bench.plot import plot
from kernels.bench.providers import PROVIDERS, named
from kernels.bench.worker import Failed, Worker

HERE = Path(__file__).parent


def run(args: argparse.Namespace, device: str, console: Console) -> Comparison:
    """Measures, prints the table and what was skipped, appends the rows and draws the plot of all that are there."""
    providers = named(args.providers) if args.providers else list(PROVIDERS.values())
    plan = GPU_PLAN if device == "cuda" else CPU_PLAN
    workloads = (
        list_gpu_workloads(providers)
        if device == "cuda"
        else list_cpu_workloads(args.sizes, args.dim, providers, args.losses)
    )

    def open_worker() -> Worker:
        return Worker(device, args.threads)

    progress = Console(stderr=True)
    with progress.status("starting") as status:
        worker = open_worker()
        try:
            about = worker.call("about", 120.0)
        finally:
            worker.close()
        result = compare(
            workloads, open_worker, plan, about, tell=status.update, done=lambda rows: table.append(args.out, rows)
        )
    if result.rows:
        console.print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}\n")
        console.print(table.tables(result.rows))
        console.print(f"{table.LEGEND}\n", style="dim", highlight=False)
        if not args.busy:
            plot(table.read(args.out), args.out.with_name("plot.png"))
    for line in result.list_reasons():
        console.print(f"[dim]skipped[/] {line}", highlight=False)
    return result


def main() -> int:
    """Runs the command; returns 0 where something was measured, 1 where nothing was, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=_parse_sizes, help="rows on each side, on the CPU (2048,4096,8192)")
    parser.add_argument("--large", action="store_true", help="16384 too: the dense loss then needs 7 GiB")
    parser.add_argument("--dim", type=_parse_sizes, default=CPU_DIMS, help="dimensions of a row, on the CPU (64,512)")
    parser.add_argument(
        "--losses", type=_parse_names, default=CPU_LOSSES, help=f"of {', '.join(CPU_LOSSES)}, on the CPU"
    )
    parser.add_argument("--providers", type=_parse_names, help=f"some of {', '.join(PROVIDERS)}; all by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument(
        "--busy", type=int, default=0, help="processes that compute beside all that is measured; nothing is drawn then"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results.csv", help="CSV to append to; plot.png goes beside it"
    )
    args = parser.parse_args()
    args.sizes = [*(args.sizes or CPU_SIZES), *([LARGE] if args.large else [])]
    device, console = "cuda" if torch.cuda.is_available() else "cpu", Console()
    try:
        with _keep_busy(args.busy):
            result = run(args, device, console)
    except (ValueError, Failed) as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, style="red", markup=False)
        return 2
    if device == "cpu":
        gpu_only = ", ".join(name for name, provider in PROVIDERS.items() if "cpu" not in provider.devices)
        console.print(f"No GPU here: {gpu_only} and all sizes of a GPU were not measured; nothing above speaks of one.")
    return 0 if result.rows else 1


@contextmanager
def _keep_busy(num: int) -> Iterator[None]:
    """Starts processes that do nothing but compute, and ends them afterwards."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _parse_sizes(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _parse_names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
