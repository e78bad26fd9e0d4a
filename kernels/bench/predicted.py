"""Forecasts beside measurements: how long a step should take on this GPU by its machine code, and how long it took.

A step is its passes over S and the library's products with G. Passes are compiled here, for the device's architecture
and with the configurations in use, and read as the compile report reads them (kernels.forecast); that needs no GPU,
which only says what it is.

Trap: only passes that run over all of S are forecast. What meets positives alone, the merging of parts, and exact
passes (launched every time, returning at once unless they are needed) are left out; where they matter ratios are
above 1.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from kernels.bench.measuring import Runner
from kernels.bench.workload import Fields, Mode, Workload

if TYPE_CHECKING:
    from kernels.forecast.gpus import Gpu
    from kernels.tiles.configs import Config

Times = tuple[float, float, float]
"""likely, shortest and longest, in seconds"""
PRODUCTS = "products of the library"

PASSES: dict[str, dict[Mode, list[tuple[str, str]]]] = {
    "infonce": {"forward": [("lse", "mean")], "full": [("lse", "mean"), ("gradient", "mean")]},
    "each": {"forward": [("lse", "negatives")], "full": [("lse", "negatives"), ("each", "gradient")]},
    "sigmoid": {"forward": [("sigmoid", "sigmoid")], "full": [("sigmoid", "sigmoid")]},
}
"""(kernel, variant) of the compile report for each pass over S"""


class Part(TypedDict):
    """Holds the forecast of a part of a step."""

    name: str
    """of the kernel's function, or PRODUCTS"""
    seconds: Times
    bound: str


@dataclass(frozen=True)
class Comparison:
    """Holds a forecast beside what was measured."""

    title: str
    part: str
    """the kernel's function, PRODUCTS, or "" for a whole step"""
    forecast: Times
    measured: float

    @property
    def ratio(self) -> float:
        """Returns measured over forecast: above 1 it took longer."""
        return self.measured / self.forecast[0]


def predict(runner: Runner, workload: Fields, mode: Mode, winners: dict[str, dict[str, int]]) -> list[Part]:
    """Forecasts the parts of a step of the Triton kernels; winners: configurations in the place of the table's.

    Raises NotImplementedError where the rates of this GPU are not known.
    """
    from kernels.forecast.gpus import find_gpu
    from kernels.tiles.configs import Config

    device = runner.about()["device"]
    gpu = find_gpu(device)
    if gpu is None:
        raise NotImplementedError(f"no rates are kept for {device}: add them to kernels/forecast/gpus.py")
    configs = {kernel: Config(**config) for kernel, config in winners.items()}
    return forecast_step(Workload(**workload), mode, gpu, configs)


def forecast_step(workload: Workload, mode: Mode, gpu: Gpu, winners: dict[str, Config]) -> list[Part]:
    """Forecasts the parts of a step on a GPU."""
    from kernels.forecast.compiled import count_programs, read_usage
    from kernels.tiles import configs, report

    operands = {"bfloat16": "bf16", "float16": "fp16"}[workload.dtype]
    parts: list[Part] = []
    for kernel, variant in PASSES[workload.loss][mode]:
        config = winners.get(kernel) or configs.choose(kernel, gpu.arch, 2, workload.n, workload.n, gpu.processors)
        job = report.Job(gpu.arch, gpu.arch, kernel, variant, operands, "ieee", config)
        job = replace(job, dimensions=workload.d, shapes=((workload.n, workload.n),))
        usage = read_usage(report.compile_job(job))
        programs = count_programs(gpu.arch, usage.registers, usage.shared, config.warps)
        found = report.forecast(job, usage, programs, gpu)
        if found is None:
            raise NotImplementedError(f"{kernel}, {variant} does not fit on {gpu.name} as {config}")
        function = report.find_variant(job).function.fn.__name__
        parts.append({"name": function, "seconds": found.seconds[0], "bound": found.bound})
    return parts + ([_forecast_products(workload, gpu)] if mode == "full" else [])


def _forecast_products(workload: Workload, gpu: Gpu) -> Part:
    """Forecasts G Y and G^T X, each of which reads all of G."""
    from kernels.forecast.published import estimate

    flops, num_bytes = 2 * workload.n**2 * workload.d / gpu.flops, 2 * workload.n**2 / gpu.memory
    bound = "tensor" if flops > num_bytes else "memory"
    return {"name": PRODUCTS, "seconds": estimate(2 * max(flops, num_bytes)), "bound": bound}


def time_kernels(runner: Runner, workload: Fields) -> dict[str, float]:
    """Measures the seconds that each kernel function takes in one full step of the Triton kernels."""
    from torch.profiler import ProfilerActivity, profile

    runner.prepare("triton", workload)
    runner.time("full")
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        runner.time("full")
    return sum_by_kernel((row.key, row.self_device_time_total / 1e6) for row in recorded.key_averages())


def sum_by_kernel(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sums the seconds of kernels by their names; what the library names itself counts as PRODUCTS."""
    total: dict[str, float] = {}
    for name, seconds in times:
        library = any(word in name.lower() for word in ("gemm", "cutlass", "nvjet", "xmma"))
        key = PRODUCTS if library else name
        total[key] = total.get(key, 0.0) + seconds
    return total


def add_up(parts: Sequence[Part]) -> Times:
    """Returns the times of a step whose parts run one after the other."""
    likely, shortest, longest = (sum(part["seconds"][i] for part in parts) for i in range(3))
    return likely, shortest, longest


def compare_parts(title: str, parts: Sequence[Part], measured: dict[str, float]) -> list[Comparison]:
    """Sets the parts of a step beside the seconds that its kernels took, where they were seen."""
    return [
        Comparison(title, part["name"], part["seconds"], measured[part["name"]])
        for part in parts
        if part["name"] in measured
    ]


HEADINGS = ("workload", "part", "forecast", "from - to", "measured", "measured / forecast")


def write_cells(row: Comparison) -> tuple[str, ...]:
    """Writes a comparison under HEADINGS."""
    likely, shortest, longest = (f"{1e3 * seconds:.1f}" for seconds in row.forecast)
    times = (f"{likely} ms", f"{shortest} - {longest} ms", f"{1e3 * row.measured:.1f} ms")
    return row.title, row.part or "step", *times, f"{row.ratio:.2f}"


def write(path: Path, rows: Sequence[Comparison], about: dict[str, str]) -> None:
    """Writes comparisons as a CSV, with the device and versions."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*about, "workload", "part", "forecast", "shortest", "longest", "measured", "ratio"])
        for row in rows:
            numbers = (f"{v:.5g}" for v in (*row.forecast, row.measured, row.ratio))
            writer.writerow([*about.values(), row.title, row.part or "step", *numbers])
