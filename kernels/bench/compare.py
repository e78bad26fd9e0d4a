"""Every provider on every problem, in one run: what could be measured as rows, what could not as reasons.

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

from kernels.bench.problem import Ceilings, Mode, Problem
from kernels.bench.providers import Provider
from kernels.bench.worker import Failed, Remote, Renewed

Row = dict[str, Any]
GRACE = 15.0
"""seconds that a measurement which has begun may take beyond its stage"""


@dataclass(frozen=True)
class Plan:
    """How much of it."""

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
    """a provider keeps its process for all problems; else each has a new one, and so its own peak memory"""


@dataclass
class Entry:
    provider: Provider
    mode: Mode
    version: str
    peak_mib: float
    seconds: list[float] = field(default_factory=list)
    errors: list[float] | None = None
    """of the value, of the gradients"""


@dataclass
class Comparison:
    rows: list[Row] = field(default_factory=list)
    skipped: dict[tuple[str, str], list[Problem]] = field(default_factory=dict)
    """(provider, why) -> where"""
    unreached: list[str] = field(default_factory=list)

    def reasons(self) -> list[str]:
        """A line for each."""
        return [
            f"{name}: {reason} ({', '.join(dict.fromkeys(p.shape for p in problems))})"
            for (name, reason), problems in self.skipped.items()
        ]


class Processes:
    """One for each provider."""

    def __init__(self, open_remote: Callable[[], Remote], plan: Plan, left: Callable[[], float]):
        self._open, self._plan, self._left = open_remote, plan, left
        self._remotes: dict[str, Renewed] = {}

    def call(self, provider: Provider, method: str, /, **arguments: Any) -> Any:
        remote = self._remotes.setdefault(provider.name, Renewed(self._open))
        return remote.call(method, min(self._plan.patience, self._left() + GRACE), **arguments)

    def close(self) -> None:
        while self._remotes:
            self._remotes.popitem()[1].close()


class Best:
    """The ceilings, measured in turn with the providers and the best of the run kept.

    Measured once beforehand they meet another load than the providers do, and shares of the floor above 1 come out.
    """

    def __init__(self, open_remote: Callable[[], Remote], plan: Plan):
        self._remote, self._plan = Renewed(open_remote), plan
        self._best: dict[str, Ceilings] = {}

    def again(self, dtype: str) -> Ceilings:
        """Raises Failed when there is none yet."""
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
    problems: Iterable[tuple[Problem, Sequence[Provider]]],
    open_remote: Callable[[], Remote],
    plan: Plan,
    about: Row,
    *,
    left: Callable[[], float] = lambda: float("inf"),
    tell: Callable[[str], object] = lambda text: None,
    done: Callable[[list[Row]], object] = lambda rows: None,
) -> Comparison:
    """Rows for all (problem, its providers), in this order for as long as there is time `left`.

    `about`: what each row says of the machine. `done` gets the rows of a problem as soon as they are measured.
    """
    result, processes, best = Comparison(), Processes(open_remote, plan, left), Best(open_remote, plan)
    known: dict[tuple[str, Problem], list[float]] = {}
    try:
        for problem, providers in problems:
            if left() <= 0:
                result.unreached.append(problem.title)
                continue
            tell(problem.title)
            when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load": round(os.getloadavg()[0], 2)}
            covering = [provider for provider in providers if provider.covers(problem, plan.device)]
            entries = _measure(problem, covering, processes, plan, result, left, known, best)
            ceilings = best.again(problem.dtype)
            rows = [about | when | _row(problem, entry, ceilings, plan) for entry in entries]
            result.rows += rows
            done(rows)
            if not plan.one_process:
                processes.close()
    finally:
        processes.close()
        best.close()
    return result


def _measure(
    problem: Problem,
    providers: list[Provider],
    processes: Processes,
    plan: Plan,
    result: Comparison,
    left: Callable[[], float],
    known: dict[tuple[str, Problem], list[float]],
    best: Best,
) -> list[Entry]:
    """`known`: errors, which are those of the first rows and so the same for all larger sizes."""
    entries, failed = [], set()

    @contextmanager
    def skipping(provider: Provider) -> Iterator[None]:
        try:
            yield
        except Failed as reason:
            failed.add(provider.name)
            result.skipped.setdefault((provider.name, str(reason)), []).append(problem)

    for provider in providers:
        with skipping(provider):
            version = processes.call(provider, "prepare", provider=provider.name, problem=asdict(problem))
            for mode in plan.modes:
                entries.append(Entry(provider, mode, version, processes.call(provider, "peak", mode=mode)))
    for turn in range(plan.rounds):
        if turn == 0 or left() > 0:
            best.again(problem.dtype)
        for entry in entries:
            over = left() <= 0 or sum(entry.seconds) > plan.enough
            if entry.provider.name in failed or (turn > 0 and over):
                continue
            with skipping(entry.provider):
                entry.seconds += processes.call(entry.provider, "time", mode=entry.mode, least=plan.least)
    entries = [entry for entry in entries if entry.seconds]
    for entry in entries:
        subset = (entry.provider.name, problem.of_size(plan.error_rows))
        if subset not in known and entry.provider.name not in failed:
            with skipping(entry.provider):
                known[subset] = processes.call(entry.provider, "errors", rows=plan.error_rows)
        entry.errors = known.get(subset)
    return entries


def _row(problem: Problem, entry: Entry, ceilings: Ceilings, plan: Plan) -> Row:
    low, median, high = _quantiles(entry.seconds)
    return asdict(problem) | {
        "provider": entry.provider.name,
        "version": entry.version,
        "mode": entry.mode,
        "seconds": median,
        "seconds_20": low,
        "seconds_80": high,
        "repeats": len(entry.seconds),
        "peak_mib": round(entry.peak_mib, 1),
        "floor_seconds": problem.floor(entry.mode, ceilings),
        "matmul_tflops": ceilings.matmul / 1e12,
        "copy_gbs": ceilings.copy / 1e9,
        "value_error": entry.errors[0] if entry.errors else "",
        "gradient_error": entry.errors[1] if entry.errors else "",
        "error_rows": min(plan.error_rows, problem.n),
    }


def _quantiles(seconds: list[float]) -> tuple[float, float, float]:
    """20 %, median, 80 %"""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return fifths[0], statistics.median(seconds), fifths[3]
