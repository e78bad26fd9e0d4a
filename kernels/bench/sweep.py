"""Which configuration of a kernel is fastest on this GPU: alternatives to the table's, timed until the time is up.

Kernels take turns, so that a session that ends early has tried some of each, the table's own configuration first.

Trap: compiling takes seconds and running milliseconds. Compilation is done beforehand by several processes on a tiny
workload, whose kernels are the same code; Triton's cache on disk hands them over.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from kernels.bench.session import Deadline
from kernels.bench.worker import Failed

Config = dict[str, int]
"""the fields of kernels.tiles.configs.Config"""
Run = Callable[[str, str, Config, float], float]
"""(kernel, shape, configuration, seconds it may take) -> seconds; raises Failed"""

TILES = ((128, 128), (128, 256), (256, 128), (64, 256), (128, 64), (64, 128), (64, 64))
ACCUMULATORS = 255
"""registers a thread can have; a tile of float32 sums that needs more spills"""


POSITIONAL = ("block_m", "block_n", "block_k", "warps", "stages")
USUAL = {"group": 8, "programs": 0, "strips": 2}
"""how tiles are ordered, unless a configuration says so"""


@dataclass(frozen=True)
class Trial:
    """Records what a configuration of a kernel took on one shape, or why it failed."""

    kernel: str
    shape: str
    config: Config
    seconds: float | None
    why: str = ""


def list_candidates(present: Config, element_bytes: int, shared_memory: int) -> list[Config]:
    """Lists the table's configuration, and those that can launch at all, the likely ones first."""
    found = [present]
    for stages, warps, (m, n), k in product((3, 4, 2), (8, 4), TILES, (64, 128, 32)):
        fits = stages * (m + n) * k * element_bytes <= shared_memory and m * n / (32 * warps) < ACCUMULATORS
        config = present | {"block_m": m, "block_n": n, "block_k": k, "warps": warps, "stages": stages}
        if fits and config not in found:
            found.append(config)
    for name, values in {"group": (4, 16), "programs": (1, 2), "strips": (2, 4)}.items():
        found[1:1] = [present | {name: value} for value in values if present.get(name) != value]
    return found


def in_turns(alternatives: Mapping[str, Sequence[Config]]) -> Iterator[tuple[str, Config]]:
    """Yields the first of each kernel, the second of each, ..."""
    for i in range(max(map(len, alternatives.values()), default=0)):
        for kernel, configs in alternatives.items():
            if i < len(configs):
                yield kernel, configs[i]


def sweep(
    alternatives: Mapping[str, Sequence[Config]],
    shapes: Sequence[str],
    run: Run,
    deadline: Deadline,
    tell: Callable[[Trial], object] = lambda trial: None,
) -> tuple[list[Trial], int]:
    """Tries all that there is time for; returns the trials, failed ones too, and how many configurations are untried.

    A configuration that fails or is slow (1.3 times the kernel's best) on one shape is not tried on the next.
    """
    trials: list[Trial] = []
    best: dict[tuple[str, str], float] = {}
    untried = 0
    for kernel, config in in_turns(alternatives):
        if deadline.left() <= 0:
            untried += 1
            continue
        for shape in shapes:
            try:
                trial = Trial(kernel, shape, config, run(kernel, shape, config, deadline.left()))
            except Failed as reason:
                trial = Trial(kernel, shape, config, None, str(reason))
            trials.append(trial)
            tell(trial)
            if trial.seconds is None or trial.seconds > 1.3 * best.get((kernel, shape), math.inf):
                break
            best[kernel, shape] = min(trial.seconds, best.get((kernel, shape), math.inf))
    return trials, untried


def pick_winners(trials: Sequence[Trial]) -> dict[str, Config]:
    """Picks for each kernel the configuration that was tried on most shapes, with the least product of their times."""
    times: dict[str, dict[tuple[tuple[str, int], ...], list[float]]] = {}
    for trial in trials:
        if trial.seconds is not None:
            times.setdefault(trial.kernel, {}).setdefault(tuple(trial.config.items()), []).append(trial.seconds)
    return {
        kernel: dict(min(tried, key=lambda config: (-len(tried[config]), math.prod(tried[config]))))
        for kernel, tried in times.items()
    }


def write_python(chosen: Mapping[str, Config], arch: int, element_bytes: int, trials: Sequence[Trial]) -> str:
    """Writes lines for kernels.tiles.configs.TABLE, with what each gained over the first configuration tried."""
    lines = []
    for kernel, config in chosen.items():
        first, won = (_find_seconds(trials, kernel, tried) for tried in (_find_first(trials, kernel), config))
        gains = ", ".join(f"{shape}: {first[shape] / won[shape]:.2f} x" for shape in won if shape in first)
        values = [str(config[name]) for name in POSITIONAL]
        values += [f"{name}={v}" for name, v in config.items() if name not in POSITIONAL and USUAL.get(name) != v]
        lines.append(f'    ({arch}, "{kernel}", {element_bytes}): Config({", ".join(values)}),  # {gains}')
    return "\n".join(lines)


def _find_first(trials: Sequence[Trial], kernel: str) -> Config:
    return next(trial.config for trial in trials if trial.kernel == kernel)


def _find_seconds(trials: Sequence[Trial], kernel: str, config: Config) -> dict[str, float]:
    return {t.shape: t.seconds for t in trials if t.kernel == kernel and t.config == config and t.seconds is not None}


def write(path: Path, trials: Sequence[Trial]) -> None:
    """Writes the trials as CSV."""
    names = list(trials[0].config) if trials else []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kernel", "shape", *names, "seconds", "why"])
        for trial in trials:
            seconds = "" if trial.seconds is None else f"{trial.seconds:.6g}"
            writer.writerow([trial.kernel, trial.shape, *trial.config.values(), seconds, trial.why])
