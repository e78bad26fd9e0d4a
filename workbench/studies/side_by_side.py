"""Independent trainings side by side, a process each: one that fails, or is killed, leaves the others alone.

Processes are spawned, not forked, and each takes one thread: two runs on two cores beat one run on two threads, because
the matrices are small. The trap: a process must not outlive the command that started it, or it keeps the lock of its
run folder and the next command is refused. A pool never notices that its owner was killed, so each process watches.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from workbench.recipe.schema import Recipe, parse_recipe


@dataclass(frozen=True)
class Job:
    """One training."""

    recipe: Recipe
    folder: Path | None = None
    """its run folder, resumed, or only read when it is finished; None keeps nothing"""


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    facts: dict[str, float]
    """the last evaluation, by names as in metrics.jsonl"""
    total_weight: float
    """of the objective's terms"""
    seconds: float
    """spent in steps, those before a resume included"""


def train_all(
    jobs: Sequence[Job], processes: int, progress: Callable[[Sequence[float]], None] = lambda _: None
) -> Generator[tuple[int, Trained | Exception], None, None]:
    """Train every job, `processes` at once, and yield (its index, its result or error) as they end.

    `progress` gets the fraction of each job that is done, a few times a second. Close the iterator to start no further
    job (`contextlib.closing`): those that run are finished.
    """
    context = mp.get_context("spawn")
    done = context.RawArray("d", len(jobs))  # each job writes its own: no lock that a killed process could hold
    todo: SimpleQueue[int] = SimpleQueue()
    ended: SimpleQueue[tuple[int, Trained | Exception]] = SimpleQueue()
    stopped = threading.Event()
    for index in range(len(jobs)):
        todo.put(index)

    def pool() -> ProcessPoolExecutor:
        # a pool of one: the death of its process is the failure of one job
        return ProcessPoolExecutor(1, mp_context=context, initializer=_own_process, initargs=(done,))

    def work() -> None:
        own = pool()
        while not stopped.is_set():
            try:
                index = todo.get_nowait()
            except Empty:
                break
            outcome: Trained | Exception
            try:
                outcome = own.submit(_train, index, jobs[index].recipe.as_dict(), jobs[index].folder).result()
            except BrokenProcessPool:
                own, outcome = pool(), ChildProcessError("its process was killed, perhaps for want of memory")
            except Exception as error:
                outcome = error
            ended.put((index, outcome))
        own.shutdown()

    for _ in range(min(processes, len(jobs))):
        threading.Thread(target=work).start()
    try:
        for _ in jobs:
            yield _next(ended, lambda: progress(done))
        progress(done)
    finally:
        stopped.set()


def _next(ended: SimpleQueue[Any], waiting: Callable[[], None]) -> Any:
    """Wait for the next that ended, calling `waiting` meanwhile."""
    while True:
        try:
            return ended.get(timeout=0.2)
        except Empty:
            waiting()


_done: Any = None
"""in the process of a job: the fractions that are done, shared with the process that started it"""


def _own_process(done: Any) -> None:
    """Settle a process that trains jobs, one after the other."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # a run in its folder takes the signal, and saves
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from workbench.distributed.processes import device
    from workbench.training.allocator import keep_memory

    global _done
    _done = done
    if device().type == "cpu":
        keep_memory()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, also when that was killed and could tell nobody."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(index: int, tree: dict[str, Any], folder: Path | None) -> Trained:
    """Train one job, in its own process."""
    from workbench.engine import Callback, Engine, Logs
    from workbench.runs.train import train

    class Progress(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            _done[index] = engine.step / engine.steps

    outcome = train(parse_recipe(tree), folder, callbacks=[Progress()])
    if not outcome.finished:
        raise InterruptedError(f"stopped at step {outcome.step} of {outcome.steps}; the same command goes on")
    _done[index] = 1.0
    records = outcome.records
    last = next(record for record in reversed(records) if any(name.startswith("eval/") for name in record))
    facts = {name: value for name, value in last.items() if name.startswith("eval/")}
    seconds = sum(record.get("time/step", 0.0) for record in records)
    return Trained(facts, outcome.parts.objective.total_weight, seconds)
