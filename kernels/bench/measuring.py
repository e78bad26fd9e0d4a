"""Measuring one provider on one workload, in this process: seconds, peak memory, errors, and the device's ceilings.

Trap: on the CPU peak memory is what the process grew by, and pages that were freed may not have gone back. They are
given back before a measurement where the system can; elsewhere than on Linux a process should measure one workload.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from kernels.bench import resident
from kernels.bench.providers import PROVIDERS, Loss, Provider
from kernels.bench.workload import Fields, Inputs, Mode, Workload


class About(TypedDict):
    """Says on what something was measured."""

    device: str
    torch: str
    triton: str
    threads: int


WARM_ROWS = 512
"""rows of the run in which a provider compiles what it can and loads its libraries, on the CPU"""
MIB = 2**20


class Runner:
    """Measures one provider on one workload at a time.

    Methods take and return what JSON can say, as they are called from another process (kernels.bench.worker).
    """

    provider: Provider
    workload: Workload
    loss: Loss
    z: Inputs

    def __init__(self, device: str):
        self.device = device
        self.adopted = ExitStack()
        """configurations that hold from now on"""

    def prepare(self, provider: str, workload: Fields) -> str:
        """Builds the loss and its inputs, compiles what can be beforehand, and returns the provider's version."""
        self.provider, self.workload = PROVIDERS[provider], Workload(**workload)
        self.loss = self.provider.build(self.workload, self.device)
        needs, free = self.provider.least(self.workload), self._measure_free_memory()
        if needs > free:
            raise MemoryError(f"needs at least {needs / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free")
        if self.device == "cpu":
            z = self.workload.of_size(WARM_ROWS).inputs(self.device).leaves()
            self.loss(z).backward()
        self.z = self.workload.inputs(self.device).leaves()
        return self.provider.version

    def peak(self, mode: Mode) -> float:
        """Measures the MiB that a run needs on top of its inputs: gradients, logits, scratch."""
        if self.device == "cpu":
            base = resident.reset_peak()
            self._run_once(mode)
            return (resident.peak() - base) / MIB
        self._run_once(mode)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._run_once(mode)
        taken = torch.cuda.max_memory_allocated() - self.z.num_bytes
        self._give_back()
        return taken / MIB

    def time(self, mode: Mode, repeats: int = 1, least: float = 0.0) -> list[float]:
        """Times `repeats` runs, in seconds, or more, up to 20, for as long as they take `least` seconds together."""
        run = self._make_timer(mode)
        taken: list[float] = []
        while len(taken) < repeats or (len(taken) < 20 and sum(taken) < least):
            taken.append(run())
        self._give_back()
        return taken

    def errors(self, rows: int) -> list[float]:
        """Returns |value - exact|, and the larger of |g - exact| / |exact| for the gradients of x and of y."""
        inputs = self.workload.of_size(rows).inputs(self.device)
        z = inputs.leaves()
        value = self.loss(z)
        value.backward()
        exact, *gradients = self.workload.exact(inputs)
        relative = [_measure_distance(leaf.grad, g) for leaf, g in zip((z.x, z.y), gradients, strict=True)]
        found = [abs(value.item() - exact.item()), max(relative)]
        self._give_back()
        return found

    def ceilings(self, dtype: str) -> list[float]:
        """Measures FLOP/s of a large square product in this dtype, and bytes/s of a large copy."""
        found = _measure_ceilings(self.device, getattr(torch, dtype))
        self._give_back()
        return found

    def about(self) -> About:
        """Returns what the rows say of the machine and its software."""
        try:
            triton = __import__("triton").__version__
        except ImportError:
            triton = ""
        name = torch.cuda.get_device_name() if self.device == "cuda" else _find_cpu_name()
        threads = torch.get_num_threads()
        return {"device": name, "torch": torch.__version__, "triton": triton, "threads": threads}

    def _give_back(self) -> None:
        """Gives memory back, as other processes measure on this device in turn."""
        if self.device == "cuda":
            for leaf in (self.z.x, self.z.y) if hasattr(self, "z") else ():
                leaf.grad = None
            torch.cuda.empty_cache()

    def _run_once(self, mode: Mode) -> None:
        for leaf in (self.z.x, self.z.y, self.z.scale, self.z.bias):
            leaf.grad = None
        with torch.set_grad_enabled(mode == "full"):
            value = self.loss(self.z)
        if mode == "full":
            value.backward()

    def _make_timer(self, mode: Mode) -> Callable[[], float]:
        """Returns a function that runs once and returns the seconds."""
        if self.device == "cpu":
            return lambda: _time(lambda: self._run_once(mode), "cpu")
        self._run_once(mode)
        flush = torch.empty(2**28, dtype=torch.int8, device="cuda")  # larger than any L2, which is to start cold

        def run() -> float:
            flush.zero_()
            return _time(lambda: self._run_once(mode), "cuda")

        return run

    def _measure_free_memory(self) -> int:
        if self.device == "cuda":
            return torch.cuda.mem_get_info()[0]
        try:
            lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
            return int(lines["MemAvailable"].split()[0]) * 1024  # with what the system would give back, such as files
        except (OSError, KeyError):
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _measure_ceilings(device: str, dtype: torch.dtype) -> list[float]:
    side, cells, repeats = (8192, 2**30, 5) if device == "cuda" else (2048, 2**25, 1)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    matmul = min(_time(lambda: torch.mm(a, b, out=product), device) for _ in range(repeats))
    source = torch.zeros(cells, device=device)
    target = torch.zeros_like(source)
    copy = min(_time(lambda: target.copy_(source), device) for _ in range(repeats))
    return [2 * side**3 / matmul, 2 * source.nbytes / copy]


def _time(run: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def _measure_distance(gradient: Tensor | None, exact: Tensor) -> float:
    assert gradient is not None
    return ((gradient.double() - exact).norm() / exact.norm()).item()


def _find_cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
