"""Time and memory of the chunked losses on this CPU, as ratios to dense masked ones in the same run.

    python -m kernels.bench --sizes 2048,4096,8192

Forward and backward of N x N contrasts with two positives per row. Each measurement is a process of its own, because
peak memory is a property of a process. Rows are appended to kernels/bench/results.csv.

Trap: on a busy machine seconds mean little and ratios of them not much more; memory does not mind. No GPU is measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

import kernels

LOSSES = ("infonce", "sigmoid")
PROVIDERS = ("dense", "chunked")


def dense_infonce(x: Tensor, y: Tensor, t: Tensor, ids: Tensor) -> Tensor:
    S = t * x @ y.T
    P = (ids[:, None] == ids).float()
    T = P / P.sum(1, keepdim=True)  # symmetric, as both sides have the same ids
    return -((T * S.log_softmax(1)).sum(1).mean() + (T * S.log_softmax(0)).sum(0).mean()) / 2


def dense_sigmoid(x: Tensor, y: Tensor, t: Tensor, ids: Tensor) -> Tensor:
    sign = 2.0 * (ids[:, None] == ids) - 1.0
    return -logsigmoid(sign * (t * x @ y.T - t)).sum() / len(x)


def loss_of(name: str, provider: str, x: Tensor, y: Tensor, t: Tensor, ids: Tensor) -> Tensor:
    if provider == "dense":
        return dense_infonce(x, y, t, ids) if name == "infonce" else dense_sigmoid(x, y, t, ids)
    if name == "infonce":
        return kernels.multi_positive_infonce(x, y, t, ids, ids)
    return kernels.multi_positive_sigmoid(x, y, t, -t, ids, ids)


def measure(loss: str, provider: str, n: int, d: int, repeats: int) -> dict[str, float]:
    """Median seconds, MiB that the process grew at its peak, and the value. To be called once in a process."""

    def once(rows: int) -> tuple[float, float]:
        draw = torch.Generator().manual_seed(0)
        ids = torch.arange(rows) // 2
        concept = torch.randn(rows, d, generator=draw)[ids]
        x, y = (normalize(concept + torch.randn(rows, d, generator=draw), dim=1).requires_grad_() for _ in range(2))
        t = torch.tensor(20.0, requires_grad=True)
        start = time.perf_counter()
        value = loss_of(loss, provider, x, y, t, ids)
        value.backward()
        return time.perf_counter() - start, value.item()

    once(64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runs = [once(n) for _ in range(repeats)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return {"seconds": statistics.median(s for s, _ in runs), "peak_mib": grown / unit, "value": runs[0][1]}


def measured_apart(loss: str, provider: str, n: int, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "kernels.bench", "--dim", str(args.dim), "--repeats", str(args.repeats)]
    command += ["--threads", str(args.threads), "--one", loss, provider, str(n)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{provider} {loss} at {n} failed (exit {done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def append(path: Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def compare(args: argparse.Namespace) -> None:
    console, progress = Console(), Console(stderr=True)
    table = Table(title=f"forward + backward, float32, D = {args.dim}, {args.threads} threads, two positives per row")
    for heading in ("loss", "N", "dense\ns", "chunked\ns", "faster", "dense\nMiB", "chunked\nMiB", "less"):
        table.add_column(heading, justify="left" if heading == "loss" else "right", no_wrap=True)
    about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "torch": torch.__version__, "device": "cpu"}
    about |= {"cpus": os.cpu_count(), "threads": args.threads, "dtype": "float32", "d": args.dim}
    for loss in LOSSES:
        for n in args.sizes:
            with progress.status(f"{loss}, N = {n}"):
                dense, chunked = (measured_apart(loss, provider, n, args) for provider in PROVIDERS)
            for provider, result in zip(PROVIDERS, (dense, chunked), strict=True):
                append(args.out, {**about, "loss": loss, "provider": provider, "n": n, **result})
            table.add_row(
                loss,
                str(n),
                f"{dense['seconds']:.3f}",
                f"{chunked['seconds']:.3f}",
                f"{dense['seconds'] / chunked['seconds']:.1f} x",
                f"{dense['peak_mib']:.0f}",
                f"{chunked['peak_mib']:.0f}",
                f"{dense['peak_mib'] / max(chunked['peak_mib'], 1.0):.1f} x",
            )
    console.print(table)
    console.print(f"Peak memory is what the process grew by, inputs and gradients included. Rows are in {args.out}.")
    console.print("Measured on the CPU alone: no GPU was measured, and these numbers say nothing about one.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=lambda s: [int(n) for n in s.split(",")], default=[2048, 4096, 8192])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.csv"), help="CSV to append to")
    parser.add_argument("--one", nargs=3, metavar=("LOSS", "PROVIDER", "N"), help="one measurement, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        loss, provider, n = args.one
        print(json.dumps(measure(loss, provider, int(n), args.dim, args.repeats)))  # noqa: T201
    else:
        compare(args)


if __name__ == "__main__":
    main()
