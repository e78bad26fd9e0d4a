"""The one place that trains many runs: a process each, and one that fails or is killed leaves the others alone.

A process trains one run after the other, with its share of the threads: two runs on two cores beat one run on two
threads. It is a command line of its own (`worker`), not a fork and not a spawn of multiprocessing, which would run a
script that calls `workbench.sweep` a second time from its top.

The trap: a terminal sends Ctrl-C to all processes of a command, and to each of them once more when the parent passes it
on; the second one stops a run without saving. So workers have a session of their own, and hear of it from here alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from workbench.errors import explain
from workbench.recipe.schema import Recipe
from workbench.studies.machine import list_gpus
from workbench.studies.worker import Order

RETRY = 2.0
"""seconds until a run that another process trains is asked for again"""


@dataclass(frozen=True)
class Job:
    """One training."""

    recipe: Recipe
    folder: Path | None = None
    """its run folder, resumed, or only read when it is finished; None keeps nothing"""
    log: Path | None = None
    """a file for what it says; None leaves that on stderr"""


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    facts: dict[str, float]
    """the last evaluation, by names as in metrics.jsonl"""
    total_weight: float
    """of the objective's terms"""
    seconds: float
    """spent in steps, those before a resume included"""


@dataclass(frozen=True)
class Failed:
    """Why a training has no result."""

    kind: str
    """the name of the error; `Stopped` where it was asked to stop, and has saved what it has a folder for"""
    said: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.said}"


Outcome = Trained | Failed


@dataclass
class Progress:
    """How far a job is."""

    state: Literal["waiting", "running", "elsewhere", "ended"] = "waiting"
    """elsewhere: another process holds its folder"""
    step: int = 0
    steps: int = 0
    """0 until it is known"""
    began: float = 0.0
    """time.monotonic() of its first step here"""
    first: int = 0
    """the step that it began with here"""

    @property
    def share(self) -> float:
        """The share of its steps that is done."""
        return 1.0 if self.state == "ended" else self.step / self.steps if self.steps else 0.0


def train_all(
    jobs: Sequence[Job],
    at_once: int,
    progress: Callable[[Sequence[Progress]], None] = lambda _: None,
    *,
    threads: int = 1,
    wait: bool = False,
) -> Generator[tuple[int, Outcome], None, None]:
    """Train every job, so many at once, and yield (its index, its result or why it has none) as they end.

    Close the iterator to stop (`contextlib.closing`): runs finish their step, save, and no further one begins. A second
    KeyboardInterrupt meanwhile ends them at once.

    Args:
        progress: gets how far each job is, a few times a second.
        threads: of each process.
        wait: for jobs that another process is training, when all others are done; else they have failed.
    """
    crew = _Crew(jobs, threads, wait)
    crew.start(min(at_once, len(jobs)))
    try:
        for _ in jobs:
            yield crew.next_ended(lambda: progress(crew.progress))
        progress(crew.progress)
    finally:
        crew.stop()


class _Crew:
    """Jobs, and the threads that each lead a process through them."""

    def __init__(self, jobs: Sequence[Job], threads: int, wait: bool) -> None:
        self.jobs, self.threads, self.wait = jobs, threads, wait
        self.progress = [Progress() for _ in jobs]
        self._todo = deque(range(len(jobs)))
        self._not_before = dict[int, float]()
        self._ended: SimpleQueue[tuple[int, Outcome]] = SimpleQueue()
        self._stopped = threading.Event()
        self._workers: list[_Worker] = []
        self._leaders: list[threading.Thread] = []

    def start(self, at_once: int) -> None:
        gpus = list_gpus()
        for place in range(at_once):
            gpu = gpus[place % len(gpus)] if gpus else None
            self._workers.append(_Worker(self.threads, gpu))
            self._leaders.append(threading.Thread(target=self._lead, args=(self._workers[-1],), daemon=True))
            self._leaders[-1].start()

    def _lead(self, worker: _Worker) -> None:
        """Give a process one job after the other."""
        while (index := self._take()) is not None:
            mine = self.progress[index]
            mine.state = "running"
            outcome: Outcome
            try:
                outcome = worker.train(self.jobs[index], mine)
            except Exception as error:  # no process can be started: whoever waits for this job must hear of it
                outcome = Failed(type(error).__name__, explain(error))
            held = isinstance(outcome, Failed) and outcome.kind == "RunHeld"
            if held and self.wait and not self._stopped.is_set():
                mine.state = "elsewhere"
                self._not_before[index] = time.monotonic() + RETRY
                self._todo.append(index)
                continue
            mine.state = "ended"
            self._ended.put((index, outcome))
        worker.end()

    def _take(self) -> int | None:
        """Take the next job, when its time has come; None where there is none, or all are to stop."""
        try:
            index = self._todo.popleft()
        except IndexError:
            return None
        later = self._not_before.get(index, 0.0) - time.monotonic()
        stopped = self._stopped.wait(later) if later > 0 else self._stopped.is_set()
        return None if stopped else index

    def next_ended(self, waiting: Callable[[], None]) -> tuple[int, Outcome]:
        """Wait for the next job that ends, calling `waiting` meanwhile.

        Raises KeyboardInterrupt where this is another thread, and the main one has ended, to which Ctrl-C goes.
        """
        while True:
            try:
                return self._ended.get(timeout=0.2)
            except Empty:
                waiting()
                if not threading.main_thread().is_alive():
                    raise KeyboardInterrupt from None

    def stop(self) -> None:
        """Let every process finish its step, save, and end; at once where another KeyboardInterrupt comes."""
        self._stopped.set()
        try:
            for worker in self._workers:
                worker.stop()
            for leader in self._leaders:
                leader.join()
        except KeyboardInterrupt:
            for worker in self._workers:
                worker.kill()
            raise


class _Worker:
    """A process of `worker`, started with its first job, and again after a death."""

    def __init__(self, threads: int, gpu: str | None) -> None:
        self._threads, self._gpu = threads, gpu
        self._process: subprocess.Popen[str] | None = None
        self._busy = self._stopped = False

    def train(self, job: Job, progress: Progress) -> Outcome:
        """Train a job, and keep its progress up to date."""
        order = Order(
            recipe=job.recipe.as_dict(),
            folder=str(job.folder) if job.folder else None,
            log=str(job.log) if job.log else None,
            command=sys.argv,
        )
        self._busy = True
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if self._stopped:
                return Failed("Stopped", "stopped before it began")
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                news = json.loads(line)
                if "step" not in news:
                    return Failed(news["failed"], news["said"]) if "failed" in news else Trained(**news)
                if not progress.steps:
                    progress.began, progress.first = time.monotonic(), news["step"]
                progress.step, progress.steps = news["step"], news["steps"]
        except (BrokenPipeError, json.JSONDecodeError):  # it died before it listened, or while it spoke
            pass
        finally:
            self._busy = False
        return self._died(process)

    def _died(self, process: subprocess.Popen[str]) -> Failed:
        self._process = None
        status = _wait(process)
        if self._stopped:
            return Failed("Stopped", "stopped before its first step")
        if status == -signal.SIGKILL:
            return Failed("ChildProcessError", "its process was killed, perhaps for want of memory")
        return Failed("ChildProcessError", f"its process ended by itself, with status {status}")

    def _start(self) -> subprocess.Popen[str]:
        """Start a process that finds every module that this one finds."""
        own = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        own |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self._threads))
        if self._gpu is not None:
            own["CUDA_VISIBLE_DEVICES"] = self._gpu
        # -P: what lies in the current folder must not hide a module, as a folder `kernels` would
        command = [sys.executable, "-P", "-m", "workbench.studies.worker", str(self._threads)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=os.environ | own, start_new_session=True
        )

    def stop(self) -> None:
        """Ask for the end of what is being trained."""
        self._stopped = True
        if self._process and self._busy:
            self._process.terminate()

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def end(self) -> None:
        """Let the process go, and wait until it is gone."""
        if self._process:
            _wait(self._process)


def _wait(process: subprocess.Popen[str]) -> int:
    """Tell a process that there is nothing more to do, and wait for its end; returns its status."""
    for pipe in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):  # what it has not read any more
            if pipe:
                pipe.close()
    return process.wait()
