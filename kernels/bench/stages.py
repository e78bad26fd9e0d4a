"""The stages of a session on a GPU: check, tune, compare, profile. What they find goes to kernels.bench.report.

Everything that touches the device runs in other processes: a configuration that crashes or hangs costs one trial.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from kernels.bench import predicted, sweep, table
from kernels.bench.cases import GPU_PLAN, Workloads, list_gpu_workloads
from kernels.bench.compare import Comparison, Plan, compare
from kernels.bench.plot import plot
from kernels.bench.providers import PROVIDERS
from kernels.bench.session import Deadline, Stage, Stop
from kernels.bench.tuning import EXERCISES, LOSSES, Check
from kernels.bench.worker import Failed, Remote, Renewed
from kernels.bench.workload import Fields, Workload

DTYPE, ELEMENT_BYTES = "bfloat16", 2
CHECKED = (
    ("bfloat16", (1000, 1531, 768)),
    ("bfloat16", (129, 257, 200)),
    ("float16", (640, 1100, 512)),
    ("float32", (640, 1100, 512)),
)
"""dtype, (M, N, D)"""
SWEPT = {"32768 x 768": (32768, 768), "131072 x 512": (131072, 512)}
COMPILED = {"compiled only": (512, 768)}
SCRATCH_MIB = (128, 256, 512, 1024, 2048)
PROFILED = Workload("infonce", 65536, 768, dtype=DTYPE)
ROOT = Path(__file__).parents[2]

T = TypeVar("T")

Failures = dict[tuple[str, str], str]
"""(kernel, configuration as JSON) -> why it cannot run"""


@dataclass
class Findings:
    """Collects what the stages find."""

    about: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    tests: str = "not run"
    trials: list[sweep.Trial] = field(default_factory=list)
    winners: dict[str, sweep.Config] = field(default_factory=dict)
    table: str = ""
    scratch: dict[int, float] = field(default_factory=dict)
    """MiB -> seconds of a full step"""
    comparison: Comparison = field(default_factory=Comparison)
    forecasts: list[predicted.Comparison] = field(default_factory=list)
    profile: str = ""


def run_pytest(seconds: float) -> tuple[int | None, str]:
    """Runs the tests that need a GPU; returns (exit code, the last line), None for the code when time ran out."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/kernels", "--maxfail=3", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, f"not finished within {seconds:.0f} s"
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.returncode, lines[-1] if lines else ""


class Session:
    """Checks, tunes, compares and profiles, and writes what it finds into a folder as soon as it is found."""

    def __init__(
        self,
        out: Path,
        open_remote: Callable[[], Remote],
        *,
        plan: Plan = GPU_PLAN,
        workloads: Workloads | None = None,
        backend: str = "triton",
        run_tests: Callable[[float], tuple[int | None, str]] = run_pytest,
        jobs: int = min(12, max(1, (os.cpu_count() or 1) - 2)),
        tell: Callable[[str], object] = lambda text: None,
    ):
        self.out, self.plan, self.backend, self.jobs, self.tell = out, plan, backend, jobs, tell
        self.workloads = list_gpu_workloads(list(PROVIDERS.values())) if workloads is None else workloads
        self.found = Findings()
        self._open, self._run_tests = open_remote, run_tests

    def stages(self) -> list[Stage]:
        """Lists the stages in their order, with their shares of the time."""
        return [
            Stage("correctness", 2.0, self.correctness),
            Stage("sweep", 4.0, self.sweep),
            Stage("measure", 4.5, self.measure),
            Stage("forecast", 0.5, self.forecast),
            Stage("profile", 0.5, self.profile),
        ]

    def correctness(self, deadline: Deadline) -> list[str]:
        """Checks every loss against float64 and runs the tests; raises Stop where one fails."""
        with self._remote() as remote:
            self.found.about |= remote.call("about", 120.0)
        missing = []

        def check(remote: Remote, task: tuple[str, str, tuple[int, int, int]]) -> None:
            loss, dtype, shape = task
            asked = {"backend": self.backend, "loss": loss, "dtype": dtype, "shape": shape}
            try:
                self.found.checks += remote.call("check", deadline.left() + 30.0, **asked)
            except Failed as reason:
                missing.append(f"{loss} in {dtype} at {shape}: {reason}")

        tasks = [(loss, dtype, shape) for dtype, shape in CHECKED for loss in LOSSES]
        untried = self._share_out(iter(tasks), check, deadline)
        missing += [f"{loss} in {dtype} at {shape}" for loss, dtype, shape in untried]
        if wrong := [row for row in self.found.checks if not row["ok"]]:
            raise Stop(
                f"{len(wrong)} of {len(self.found.checks)} checks against float64 failed; the first: "
                "{loss}, {dtype}, {shape}: error {error:.1e} > {allowed:.0e}".format(**wrong[0])
            )
        self.tell(f"{len(self.found.checks)} checks against float64 passed")
        code, self.found.tests = self._run_tests(max(deadline.left(), 1.0))
        self.tell(f"pytest: {self.found.tests}")
        if code == 1:
            raise Stop(f"tests failed: {self.found.tests}")
        return missing + ([] if code == 0 else [f"pytest -m gpu: {self.found.tests}"])

    def sweep(self, deadline: Deadline) -> list[str]:
        """Times configurations of every kernel, and writes the fastest ones as lines for configs.TABLE."""
        with self._remote() as remote:
            machine = remote.call("architecture", 60.0)
        present, memory = machine.pop("table"), machine["shared_memory"]
        self.found.about |= machine
        alternatives = {
            kernel: sweep.list_candidates(present[f"{kernel}/{ELEMENT_BYTES}"], ELEMENT_BYTES, memory)
            for kernel in EXERCISES
        }
        known = self._compile(alternatives, Deadline(0.4 * deadline.left()))
        remote = Renewed(self._open)
        try:
            run = make_trial(remote, SWEPT, 5, known)
            self.found.trials, untried = sweep.sweep(alternatives, list(SWEPT), run, deadline)
        finally:
            remote.close()
        sweep.write(self.out / "sweep.csv", self.found.trials)
        self.found.winners = sweep.pick_winners(self.found.trials)
        self.found.table = sweep.write_python(self.found.winners, machine["arch"], ELEMENT_BYTES, self.found.trials)
        self.tell(f"{len(self.found.trials)} trials. For kernels/tiles/configs.py:\n{self.found.table}")
        return [f"{untried} configurations"] if untried else []

    def measure(self, deadline: Deadline) -> list[str]:
        """Compares the kernels, with the fastest configurations, with their peers."""
        self.found.comparison = compare(
            self.workloads,
            lambda: self._open_remote(self.found.winners),
            self.plan,
            {key: self.found.about[key] for key in ("device", "torch", "triton", "threads")},
            left=deadline.left,
            tell=self.tell,
            done=lambda rows: table.append(self.out / "results.csv", rows),
        )
        plot(self.found.comparison.rows, self.out / "plot.png")
        return self.found.comparison.unreached

    def forecast(self, deadline: Deadline) -> list[str]:
        """Sets forecasts from machine code beside what was measured: whole steps, and the kernels of one of them."""
        rows = [row for row in self.found.comparison.rows if row["provider"] == self.backend]
        missing: list[str] = []
        with self._remote(self.found.winners) as remote:
            asked = {"winners": self.found.winners}
            about = {key: str(self.found.about[key]) for key in ("device", "torch", "triton")}
            try:
                parts = remote.call("predict", deadline.left() + 30.0, workload=asdict(PROFILED), mode="full", **asked)
                measured = remote.call("time_kernels", deadline.left() + 30.0, workload=asdict(PROFILED))
                self.found.forecasts += predicted.compare_parts(PROFILED.title, parts, measured)
                for row in rows:
                    workload = Workload(**{key: row[key] for key in Fields.__annotations__})
                    if deadline.left() <= 0:
                        missing.append(f"{workload.title}, {row['mode']}")
                        continue
                    fields = {"workload": asdict(workload), "mode": row["mode"]}
                    step = predicted.add_up(remote.call("predict", deadline.left() + 30.0, **fields, **asked))
                    title = f"{workload.title}, {row['mode']}"
                    self.found.forecasts.append(predicted.Comparison(title, "", step, row["seconds"]))
            finally:
                predicted.write(self.out / "predicted.csv", self.found.forecasts, about)
        for row in self.found.forecasts:
            self.tell("  ".join(predicted.write_cells(row)))
        return missing

    def profile(self, deadline: Deadline) -> list[str]:
        """Profiles one full step, and times it with less and with more scratch."""
        with self._remote(self.found.winners) as remote:
            self.found.profile = remote.call("profile", deadline.left() + 30.0, workload=asdict(PROFILED))
            for limit in SCRATCH_MIB:
                if deadline.left() <= 0:
                    return [f"a step with {limit} MiB of scratch and more"]
                self.found.scratch[limit] = remote.call("with_scratch", deadline.left() + 10.0, num_bytes=limit * 2**20)
        return []

    def _compile(self, alternatives: Mapping[str, list[sweep.Config]], deadline: Deadline) -> Failures:
        """Fills Triton's cache, by several processes; returns the configurations that cannot run."""
        failed: Failures = {}

        def run(remote: Remote, task: tuple[str, sweep.Config]) -> None:
            kernel, config = task
            try:
                make_trial(remote, COMPILED, 1, {})(kernel, "compiled only", config, max(deadline.left(), 5.0))
            except Failed as reason:
                if deadline.left() > 0:
                    failed[kernel, json.dumps(config)] = str(reason)

        self._share_out(sweep.in_turns(alternatives), run, deadline)
        return failed

    def _share_out(self, tasks: Iterator[T], do: Callable[[Remote, T], object], deadline: Deadline) -> list[T]:
        """Does the tasks in several processes at once; returns those that there was no time for."""
        lock = threading.Lock()

        def some() -> None:
            remote = Renewed(self._open)
            try:
                while deadline.left() > 0:
                    with lock:
                        task = list(islice(tasks, 1))
                    if not task:
                        return
                    do(remote, *task)
            finally:
                remote.close()

        threads = [threading.Thread(target=some) for _ in range(self.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return list(tasks)

    def _open_remote(self, winners: Mapping[str, sweep.Config]) -> Remote:
        remote = self._open()
        if winners:
            remote.call("adopt", 120.0, winners=dict(winners))
        return remote

    @contextmanager
    def _remote(self, winners: Mapping[str, sweep.Config] | None = None) -> Iterator[Remote]:
        remote = self._open_remote(winners or {})
        try:
            yield remote
        finally:
            remote.close()


def make_trial(remote: Remote, shapes: Mapping[str, tuple[int, int]], repeats: int, known: Failures) -> sweep.Run:
    """Makes a function that tries a configuration. shapes: name -> (N, D); known: failures that need no second try."""

    def run(kernel: str, shape: str, config: sweep.Config, seconds: float) -> float:
        if (reason := known.get((kernel, json.dumps(config)))) is not None:
            raise Failed(reason)
        (loss, mode), (n, d) = EXERCISES[kernel], shapes[shape]
        workload = asdict(Workload(loss, n, d, dtype=DTYPE))
        asked = {"kernel": kernel, "config": config, "workload": workload, "mode": mode, "repeats": repeats}
        return remote.call("trial", min(seconds + 10.0, 60.0), **asked)

    return run
