"""Every provider on every workload, in one run: what could be measured as rows, what could not as reasons.

Providers take turns, one run each and round again, so that whatever else the machine does meets all of them alike.
Trap: a ratio is one of this run. Rows of other dates, devices or loads do not belong in it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from kernels.bench.providers import Provider
from kernels.bench.worker import Failed, Json, Remote, Renewed
from kernels.bench.workload import Ceilings, Mode, Workload

Row = dict[str, Any]
"""the columns of kernels.bench.table.COLUMNS"""
GRACE = 15.0
"""seconds that a measurement which has begun may take beyond its stage"""


@dataclass(frozen=True)
class Plan:
    """Says how much is measured, and how patiently."""

    device: str
    modes: tuple[Mode, ...]
    rounds: int
    """turns of each provider"""
    least: float = 0.0
    """seconds that a turn takes at least, by repeating what is short"""
    enough: float = 60.0
    """seconds after which a provider has had turns enough"""
    error_rows: int = 512
    patience: float = 600.0
    """seconds that an answer may take"""
    one_process: bool = False
    """a provider keeps its process for all workloads; else each has a new one, and so its own peak memory"""


@dataclass
class Entry:
    """Collects the measurements of one provider on one workload in one mode."""

    provider: Provider
    mode: Mode
    version: str
    peak_mib: float
    seconds: list[float] = field(default_factory=list)
    errors: list[float] | None = None
    """of the value, of the gradients"""


@dataclass
class Comparison:
    """Collects rows for what was measured, and reasons for what was not."""

    rows: list[Row] = field(default_factory=list)
    skipped: dict[tuple[str, str], list[Workload]] = field(default_factory=dict)
    """(provider, why) -> the workloads"""
    unreached: list[str] = field(default_factory=list)
    """workloads that there was no time for"""

    def list_reasons(self) -> list[str]:
        """Lists a line for each provider and reason."""
        return [
            f"{name}: {reason} ({', '.join(dict.fromkeys(p.shape for p in workloads))})"
            for (name, reason), workloads in self.skipped.items()
        ]


class Processes:
    """Keeps a process for each provider."""

    def __init__(self, open_remote: Callable[[], Remote], plan: Plan, left: Callable[[], float]):
        self._open, self._plan, self._left = open_remote, plan, left
        self._remotes: dict[str, Renewed] = {}

    def call(self, provider: Provider, method: str, /, **arguments: Json) -> Any:
        """Calls a method in a provider's process, which is started when it is first needed. Raises Failed."""
        remote = self._remotes.setdefault(provider.name, Renewed(self._open))
        return remote.call(method, min(self._plan.patience, self._left() + GRACE), **arguments)

    def close(self) -> None:
        while self._remotes:
            self._remotes.popitem()[1].close()


class Best:
    """Measures the ceilings in turn with the providers, and keeps the best of the run.

    Measured once beforehand they meet another load than the providers do, and shares of the floor above 1 come out.
    """

    def __init__(self, open_remote: Callable[[], Remote], plan: Plan):
        self._remote, self._plan = Renewed(open_remote), plan
        self._best: dict[str, Ceilings] = {}

    def measure_again(self, dtype: str) -> Ceilings:
        """Measures once more and returns the best so far. Raises Failed when there is none yet."""
        try:
            found = Ceilings(*self._remote.call("ceilings", self._plan.patience, dtype=dtype))
        except Failed:
            if dtype in self._best:
                return self._best[dtype]
            raise
        best = self._best.get(dtype, found)
        self._best[dtype] = Ceilings(max(best.matmul, found.matmul), max(best.copy, found.copy))
        return self._best[dtype]

    def close(self) -> None:
        self._remote.close()


def compare(
    workloads: Iterable[tuple[Workload, Sequence[Provider]]],
    open_remote: Callable[[], Remote],
    plan: Plan,
    about: Row,
    *,
    left: Callable[[], float] = lambda: float("inf"),
    tell: Callable[[str], object] = lambda text: None,
    done: Callable[[list[Row]], object] = lambda rows: None,
) -> Comparison:
    """Measures all (workload, its providers), in this order for as long as there is time `left`.

    `about`: what each row says of the machine. `done` gets the rows of a workload as soon as they are measured.
    """
    result, processes, best = Comparison(), Processes(open_remote, plan, left), Best(open_remote, plan)
    known: dict[tuple[str, Workload], list[float]] = {}
    try:
        for workload, providers in workloads:
            if left() <= 0:
                result.unreached.append(workload.title)
                continue
            tell(workload.title)
            when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load": round(os.getloadavg()[0], 2)}
            covering = [provider for provider in providers if provider.covers(workload, plan.device)]
            entries = _measure(workload, covering, processes, plan, result, left, known, best)
            ceilings = best.measure_again(workload.dtype)
            rows = [about | when | _make_row(workload, entry, ceilings, plan) for entry in entries]
            result.rows += rows
            done(rows)
            if not plan.one_process:
                processes.close()
    finally:
        processes.close()
        best.close()
    return result


def _measure(
    workload: Workload,
    providers: list[Provider],
    processes: Processes,
    plan: Plan,
    result: Comparison,
    left: Callable[[], float],
    known: dict[tuple[str, Workload], list[float]],
    best: Best,
) -> list[Entry]:
    """Measures one workload: first all that is done once, then times in turns, then errors.

    `known`: errors, which are those of the first rows and so the same for all larger sizes.
    """
    entries, failed = [], set()

    @contextmanager
    def skipping(provider: Provider) -> Iterator[None]:
        try:
            yield
        except Failed as reason:
            failed.add(provider.name)
            result.skipped.setdefault((provider.name, str(reason)), []).append(workload)

    for provider in providers:
        with skipping(provider):
            version = processes.call(provider, "prepare", provider=provider.name, workload=asdict(workload))
            for mode in plan.modes:
                entries.append(Entry(provider, mode, version, processes.call(provider, "peak", mode=mode)))
    for turn in range(plan.rounds):
        if turn == 0 or left() > 0:
            best.measure_again(workload.dtype)
        for entry in entries:
            over = left() <= 0 or sum(entry.seconds) > plan.enough
            if entry.provider.name in failed or (turn > 0 and over):
                continue
            with skipping(entry.provider):
                entry.seconds += processes.call(entry.provider, "time", mode=entry.mode, least=plan.least)
    entries = [entry for entry in entries if entry.seconds]
    for entry in entries:
        subset = (entry.provider.name, workload.of_size(plan.error_rows))
        if entry.provider.same(workload) and subset not in known and entry.provider.name not in failed:
            with skipping(entry.provider):
                known[subset] = processes.call(entry.provider, "errors", rows=plan.error_rows)
        entry.errors = known.get(subset)
    return entries


def _make_row(workload: Workload, entry: Entry, ceilings: Ceilings, plan: Plan) -> Row:
    low, median, high = _find_quantiles(entry.seconds)
    return asdict(workload) | {
        "provider": entry.provider.name,
        "version": entry.version,
        "mode": entry.mode,
        "seconds": median,
        "seconds_20": low,
        "seconds_80": high,
        "repeats": len(entry.seconds),
        "peak_mib": round(entry.peak_mib, 1),
        "floor_seconds": workload.floor(entry.mode, ceilings),
        "matmul_tflops": ceilings.matmul / 1e12,
        "copy_gbs": ceilings.copy / 1e9,
        "value_error": entry.errors[0] if entry.errors else "",
        "gradient_error": entry.errors[1] if entry.errors else "",
        "error_rows": min(plan.error_rows, workload.n),
    }


def _find_quantiles(seconds: list[float]) -> tuple[float, float, float]:
    """Returns the 20 % quantile, the median and the 80 % quantile."""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return fifths[0], statistics.median(seconds), fifths[3]
