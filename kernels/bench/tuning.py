"""What only a session on a GPU asks of a process: configurations on trial, a check of every loss, a profile.

A kernel is timed inside the loss that uses it, through the public functions: whatever else runs is the same for all
configurations, so the fastest loss has the fastest kernel.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TypedDict, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

import kernels
from kernels.bench.measuring import Runner
from kernels.bench.predicted import predict, time_kernels
from kernels.bench.workload import Fields, Mode, Workload
from kernels.dispatch import BACKENDS, BackendName
from kernels.problem import Average

EXERCISES = {"lse": ("infonce", "forward"), "gradient": ("infonce", "full"), "each": ("each", "full")} | {
    "sigmoid": ("sigmoid", "full")
}
"""kernel -> the loss and the mode in which it is timed"""

ALLOWED = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 2e-3}
"""relative errors of gradients that rounding explains (2^-9, 2^-12, TF32's 2^-11), with room; bugs are O(1)"""


class Architecture(TypedDict):
    """Describes a GPU to the sweep."""

    arch: int
    """10 * major + minor"""
    shared_memory: int
    """bytes that a program may have"""
    table: dict[str, dict[str, int]]
    """"kernel/element size" -> the fields of its present configuration"""


class Check(TypedDict):
    """Says how far a loss is from float64."""

    loss: str
    dtype: str
    shape: str
    error: float
    allowed: float
    ok: bool


def trial(runner: Runner, kernel: str, config: dict[str, int], workload: Fields, mode: Mode, repeats: int) -> float:
    """Times the loss with this configuration of that kernel; returns the median seconds."""
    from kernels.tiles import configs

    with configs.override(kernel, configs.Config(**config)):
        if getattr(runner, "workload", None) != Workload(**workload):
            runner.prepare("triton", workload)
        return statistics.median(runner.time(mode, repeats))


def architecture(runner: Runner) -> Architecture:
    """Returns what the sweep starts from."""
    from kernels.tiles import configs

    properties = torch.cuda.get_device_properties(0)
    arch, limit = 10 * properties.major + properties.minor, properties.shared_memory_per_block_optin
    table = {}
    for kernel in configs.KERNELS:
        for size in (2, 4):
            key = (arch, kernel, size)
            table[f"{kernel}/{size}"] = asdict(configs.TABLE.get(key) or configs.TABLE[configs.DEFAULT, kernel, size])
    return {"arch": arch, "shared_memory": limit, "table": table}


def adopt(runner: Runner, winners: dict[str, dict[str, int]]) -> None:
    """Runs with these configurations from now on, in this process."""
    from kernels.tiles import configs

    for kernel, config in winners.items():
        runner.adopted.enter_context(configs.override(kernel, configs.Config(**config)))


def with_scratch(runner: Runner, num_bytes: int) -> float:
    """Times a full step on the present workload with another limit of scratch, which stays; returns median seconds."""
    kernels.set_scratch_limit(num_bytes)
    return statistics.median(runner.time("full", repeats=5))


LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")


def check(runner: Runner, backend: str, loss: str, dtype: str, shape: tuple[int, int, int]) -> list[Check]:
    """Compares a loss with the reference in float64 on these very features: ragged, with weights and absent items."""
    rows: list[Check] = []
    for excluded in (False, True):
        error, allowed = _measure_error(loss, excluded, backend, dtype, shape, runner.device), ALLOWED[dtype]
        rows.append(
            {
                "loss": f"{loss}{', without self' if excluded else ''}",
                "dtype": dtype,
                "shape": " x ".join(map(str, shape)),
                "error": error,
                "allowed": allowed,
                "ok": error <= allowed,
            }
        )
    return rows


def _measure_error(
    loss: str, excluded: bool, backend: str, dtype: str, shape: tuple[int, int, int], device: str
) -> float:
    """Returns the largest relative error among the value and all gradients."""
    m, n, d = shape
    draw = torch.Generator().manual_seed(m + n + d)
    x, y = (normalize(torch.randn(k, d, generator=draw), dim=1).to(getattr(torch, dtype)).to(device) for k in (m, n))
    x_ids, y_ids = (torch.randint(0, n // 2, (k,), generator=draw).to(device) for k in (m, n))
    weights = [torch.randint(0, 3, (k,), generator=draw).float().to(device) for k in (m, n)]
    upstream = torch.randn(m + n, generator=draw, dtype=torch.float64).to(device)

    def compute(name: str, dtype: torch.dtype | None) -> list[Tensor]:
        backend = cast(BackendName, name)
        a, b = (z.detach().to(dtype or z.dtype).requires_grad_() for z in (x, y))
        scalars = torch.float32 if dtype is None else dtype
        t, bias = (torch.tensor(s, dtype=scalars, device=device).requires_grad_() for s in (20.0, -10.0))
        w, v = weights
        if loss == "contrast_lse":
            lse = torch.cat(kernels.contrast_lse(a, b, t, exclude="self" if excluded else "none", backend=backend))
            value = lse @ upstream.to(lse.dtype)
        elif loss == "sigmoid":
            value = kernels.multi_positive_sigmoid(
                a, b, t, bias, x_ids, y_ids, exclude_self=excluded, x_weight=w, y_weight=v, backend=backend
            )
        else:
            value = kernels.multi_positive_infonce(
                a, b, t, x_ids, y_ids, positives=cast(Average, loss), exclude_self=excluded, x_weight=w, y_weight=v,
                backend=backend,
            )  # fmt: skip
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in (a, b, t, bias) if leaf.grad is not None)]

    wanted = compute("reference", torch.float64)
    got = compute(backend, None)
    assert len(got) == len(wanted)
    errors = [((g.double() - w).norm() / w.norm().clamp_min(1e-3)).item() for g, w in zip(got, wanted, strict=True)]
    return max(errors, key=lambda e: (e != e, e))  # NaN is the largest


def profile(runner: Runner, workload: Fields, rows: int = 20) -> str:
    """Returns torch.profiler's table of the kernels in one full step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    runner.prepare("triton" if "triton" in BACKENDS and runner.device == "cuda" else "chunked", workload)
    runner.time("full")
    cuda = runner.device == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with record(activities=activities) as recorded:
        runner.time("full")
    averages = recorded.key_averages()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    return averages.table(sort_by=key, row_limit=rows, max_name_column_width=60)


GPU_METHODS = {"trial": trial, "architecture": architecture, "adopt": adopt, "check": check} | {
    "profile": profile,
    "with_scratch": with_scratch,
    "predict": predict,
    "time_kernels": time_kernels,
}
