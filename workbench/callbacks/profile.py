"""Where the time of a few steps goes: by phase of a step, by operation, and as a trace to look at.

A phase is timed on the device's own clock: on CUDA by events in its stream, so that nothing has to wait and a phase
lasts as long as its kernels do. The trap: the profiler makes every operation slower, small ones most; the last line
of the first table says what a step takes without it.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from workbench.engine import Callback, Engine, Logs
from workbench.errors import writing

__all__ = ["Profile"]

WARM, STEPS = 5, 10
"""steps before the profile, and in it: the first ones choose kernels, find their memory and fill the queue of data"""
SHOWN, WRITTEN = (12, 40), (100, 110)
"""operations, and letters of their names: on the terminal, and in the file"""


class Profile(Callback):
    """Times steps of the first process; not a number of the training changes. Stands behind the other callbacks.

    Args:
        folder: takes trace.json.gz (for ui.perfetto.dev), phases.txt and top-ops.txt.
        warm: steps before the profile, at least 2.
        steps: steps that are profiled.
    """

    def __init__(self, folder: Path, warm: int = WARM, steps: int = STEPS) -> None:
        self.folder, self.warm, self.steps = folder, warm, steps
        self.clock: Clock | None = None
        self.phases: dict[str, float] = {}
        """seconds a step; empty before the profile is taken"""
        self._profiler: Any = None
        self._tables: list[Table] = []
        self._first, self._stamps = 0, list[float]()

    def on_start(self, engine: Engine) -> None:
        self._first = engine.step

    def on_step(self, engine: Engine, logs: Logs) -> None:
        done = engine.step - self._first
        if engine.parallel.rank or self.phases:
            return
        if done <= self.warm:
            _settle(engine.parallel.device)
            self._stamps.append(time.perf_counter())
        if done == self.warm:
            self._begin(engine)
        elif done == self.warm + self.steps:
            self._finish(engine)

    def on_end(self, engine: Engine) -> None:
        if engine.parallel.rank:
            return
        console = Console(file=sys.stderr)
        if self.clock and not self.phases and engine.step - self._first > self.warm:
            self._finish(engine)
        if not self.phases:
            console.print(f"no profile: it begins {self.warm} steps after the start, and the run had ended by then")
            return
        console.print(*self._tables)
        console.print(f"all of it is in {self.folder}; trace.json.gz opens in ui.perfetto.dev", soft_wrap=True)

    def on_exit(self, engine: Engine) -> None:
        if self._profiler:  # an error came in the middle of the profile
            engine.phase = nullcontext
            self._profiler.stop()
            self._profiler = None

    def _begin(self, engine: Engine) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its lines would stand among ours
        on_cuda = engine.parallel.device.type == "cuda"
        self._profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])])
        self._profiler.start()
        engine.phase = self.clock = Clock(engine.parallel.device)

    def _finish(self, engine: Engine) -> None:
        assert self.clock
        engine.phase = nullcontext
        self.steps = engine.step - self._first - self.warm
        self.phases = {name: seconds / self.steps for name, seconds in self.clock.read().items()}
        self._profiler.stop()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(self.folder / "trace.json.gz"))
            for name, table in (("phases", self._by_phase()), ("top-ops", self._by_operation(*WRITTEN))):
                with (self.folder / f"{name}.txt").open("w", encoding="utf-8") as file:
                    Console(file=file, width=160).print(table)
        self._tables = [self._by_phase(), self._by_operation(*SHOWN)]
        self._profiler = None  # it remembers every operation

    def _by_phase(self) -> Table:
        plain = statistics.median(after - before for before, after in zip(self._stamps, self._stamps[1:], strict=False))
        whole = sum(self.phases.values())
        first = self._first + self.warm + 1
        table = Table(f"phase, steps {first} to {first + self.steps - 1}", *_numbers("ms a step", "share"))
        for name, seconds in sorted(self.phases.items(), key=lambda phase: -phase[1]):
            table.add_row(name, _ms(seconds), f"{seconds / whole:.1%}")
        table.add_section()
        table.add_row("together", _ms(whole), "")
        table.add_row("without the profiler", _ms(plain), "")
        return table

    def _by_operation(self, count: int, letters: int) -> Table:
        """Rank operations by the time in each itself, without those that it calls; on CUDA rank kernels."""
        assert self.clock
        device = DeviceType.CUDA if self.clock.on_cuda else DeviceType.CPU
        name = "self_device_time_total" if self.clock.on_cuda else "self_cpu_time_total"  # microseconds
        found = [e for e in self._profiler.key_averages() if e.device_type == device and not e.is_user_annotation]
        whole = sum(getattr(e, name) for e in found)
        kind = "kernel" if self.clock.on_cuda else "operation"
        table = Table(Column(kind, no_wrap=True, max_width=letters), *_numbers("calls a step", "ms a step", "share"))
        for e in sorted(found, key=lambda e: -getattr(e, name))[:count]:
            own = getattr(e, name)
            calls = f"{e.count / self.steps:g}"
            table.add_row(e.key, calls, _ms(own / 1e6 / self.steps), f"{own / max(whole, 1e-9):.1%}")
        return table


class Clock:
    """Called with the name of a phase, a context that measures it and names it in the trace."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_cuda = device, device.type == "cuda"
        self.spans: list[tuple[str, Any, Any]] = []
        self.begin = self.now()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = self.now()
        with record_function(name):
            yield
        self.spans.append((name, begin, self.now()))

    def now(self) -> Any:
        """A moment: of this process, or of the stream when it gets there."""
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> dict[str, float]:
        """Sum up the seconds of each phase so far; 'between them' is the rest. Waits for the device."""
        end = self.now()
        _settle(self.device)
        seconds: dict[str, float] = defaultdict(float)
        for name, *span in self.spans:
            seconds[name] += self._between(*span)
        seconds["between them"] = self._between(self.begin, end) - sum(seconds.values())
        return dict(seconds)

    def _between(self, begin: Any, end: Any) -> float:
        return begin.elapsed_time(end) / 1e3 if self.on_cuda else end - begin


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _numbers(*heads: str) -> list[Any]:
    return [Column(head, justify="right", no_wrap=True) for head in heads]
