"""`wb doctor`: what this machine has, and which kernels would run on it."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

if TYPE_CHECKING:
    import torch

    from kernels.dispatch import BackendName

TOLERANCE = 1e-4
"""largest error of the self-check: rounding of fp32 kernels against the float64 reference is below 1e-5"""


class Kernels(TypedDict):
    """The kernels that run here, and how exact they are."""

    available: list[str]
    auto: str
    errors: dict[str, float]
    """{backend: largest error of the self-check}"""
    ok: bool


class Findings(TypedDict):
    """The report of `wb doctor`; --json prints it as it is."""

    device: str
    gpus: list[str]
    versions: dict[str, str | None]
    platform: str
    cpus: int | None
    memory_bytes: int
    disk_free_bytes: int
    compiler: str | None
    kernels: Kernels
    data: dict[str, dict[str, int]]
    """{packaged data set: {part: rows}}"""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object on stdout.")
def doctor_(as_json: bool) -> None:
    """Report device, versions, kernels and packaged data, and check the kernels on a small problem.

    Exit codes: 0 the kernels are exact; 1 they err.

    Example: wb doctor --json
    """
    found = collect()
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print_findings(found)
    raise SystemExit(0 if found["kernels"]["ok"] else 1)


def collect() -> Findings:
    """Collect everything that is reported, as plain values."""
    from workbench.runs.folder import environment

    known = environment()
    return {
        "device": "cuda" if known["gpus"] else "cpu",
        "gpus": known["gpus"],
        "versions": {"python": known["python"], **known["packages"]},
        "platform": known["platform"],
        "cpus": known["cpus"],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk_free_bytes": shutil.disk_usage(".").free,
        "compiler": next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None),
        "kernels": _kernels(bool(known["gpus"])),
        "data": _packaged_data(),
    }


def _kernels(cuda: bool) -> Kernels:
    """Find the backends that run here and the one `auto` takes; try each on a 7 x 5 problem."""
    import torch

    from kernels import dispatch

    auto = dispatch.backend_for(torch.empty(0, device="cuda" if cuda else "cpu"))
    here: list[BackendName] = [
        name for name in ("reference", "chunked", "triton") if name != "triton" or auto == "triton"
    ]
    errors = {name: self_check(name) for name in here if name != "reference"}
    return {
        "available": [*here],
        "auto": auto,
        "errors": errors,
        "ok": all(error < TOLERANCE for error in errors.values()),
    }


def self_check(backend: BackendName) -> float:
    """Return the largest error of a backend in fp32, in loss and gradients, against the reference in float64."""
    import torch

    from kernels import multi_positive_infonce

    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(n, 4, generator=draw), dim=1) for n in (7, 5))
    x_ids, y_ids = torch.tensor([0, 1, 1, 2, 3, 4, 9]), torch.tensor([1, 0, 3, 1, 2])

    def losses(backend: BackendName, dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [t.detach().to(device, dtype).requires_grad_() for t in (x, y, torch.tensor([14.0]))]
        a, b, scale = inputs
        loss = multi_positive_infonce(a, b, scale, x_ids.to(device), y_ids.to(device), backend=backend)
        loss.backward()
        return [loss.detach(), *(t.grad for t in inputs if t.grad is not None)]

    pairs = zip(losses(backend, torch.float32), losses("reference", torch.float64), strict=True)
    return max((a.double() - b).abs().max().item() for a, b in pairs)


def _packaged_data() -> dict[str, dict[str, int]]:
    """Count the rows of the data sets that are shipped inside the package: {data set: {part: rows}}."""
    import pyarrow.parquet as pq

    import workbench

    sets = sorted(folder for folder in (Path(workbench.__file__).parent / "assets").iterdir() if folder.is_dir())
    return {s.name: {f.stem: pq.read_metadata(f).num_rows for f in sorted(s.rglob("*.parquet"))} for s in sets}


def _print_findings(found: Findings) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    kernels, gib = found["kernels"], 2**30
    errors = ", ".join(f"{name} {error:.1e}" for name, error in kernels["errors"].items())
    data = [
        f"{name}: " + ", ".join(f"{part} {rows:,}" for part, rows in parts.items())
        for name, parts in found["data"].items()
    ]
    rows = {
        "device": ", ".join(found["gpus"]) or f"cpu, {platform.machine()}",
        "processors": f"{found['cpus']}, {found['memory_bytes'] / gib:.1f} GiB of memory",
        "disk": f"{found['disk_free_bytes'] / gib:.1f} GiB free here",
        **{name: version or "not installed" for name, version in found["versions"].items()},
        "C++ compiler": found["compiler"] or "none: train.compile works on a GPU only",
        "kernels": f"{', '.join(kernels['available'])}; auto takes {kernels['auto']}",
        "kernel check": f"{'ok' if kernels['ok'] else 'FAILED'}: largest error against float64: {errors}",
        "packaged data": "\n".join(data) or "none",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows.items():
        table.add_row(f"[bold]{name}", escape(value), style="red" if value.startswith("FAILED") else None)
    Console(highlight=False).print(table)
