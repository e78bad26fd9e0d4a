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
    """What a training came to."""

    facts: dict[str, float]
    """the last evaluation, by names as in metrics.jsonl"""
    total_weight: float
    """of the objective's terms"""
    seconds: float
    """spent in steps, those before a resume included"""


def train_all(
    jobs: Sequence[Job], processes: int, progress: Callable[[Sequence[float]], None] = lambda _: None
) -> Generator[tuple[int, Trained | Exception], None, None]:
    """Train every job, so many at once, and yield (its index, what came of it) as they end.

    `progress` gets the share of each job that is done, a few times a second. Close the iterator to start no further
    job (`contextlib.closing`): those that run are finished.
    """
    context = mp.get_context("spawn")
    shares = context.RawArray("d", len(jobs))  # each job writes its own: no lock that a killed process could hold
    todo: SimpleQueue[int] = SimpleQueue()
    ended: SimpleQueue[tuple[int, Trained | Exception]] = SimpleQueue()
    stopped = threading.Event()
    for index in range(len(jobs)):
        todo.put(index)

    def pool() -> ProcessPoolExecutor:
        # a pool of one: the death of its process is the failure of one job
        return ProcessPoolExecutor(1, mp_context=context, initializer=_own_process, initargs=(shares,))

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
            yield _next(ended, lambda: progress(shares))
        progress(shares)
    finally:
        stopped.set()


def _next(ended: SimpleQueue[Any], waiting: Callable[[], None]) -> Any:
    while True:
        try:
            return ended.get(timeout=0.2)
        except Empty:
            waiting()


_shares: Any = None


def _own_process(shares: Any) -> None:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # a run in its folder takes the signal, and saves
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    global _shares
    _shares = shares
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(index: int, tree: dict[str, Any], folder: Path | None) -> Trained:
    """One job, in its own process."""
    from workbench.build import build_engine, build_parts
    from workbench.distributed.processes import Parallel
    from workbench.engine import Callback, Engine
    from workbench.runs.initial_weights import initialise
    from workbench.runs.train import train
    from workbench.training.metrics import Metrics

    class Share(Callback):
        def on_step(self, engine: Engine, logs: Any) -> None:
            _shares[index] = engine.step / engine.steps

    recipe = parse_recipe(tree)
    if folder is not None:
        outcome = train(recipe, folder, callbacks=[Share()])
        if not outcome.finished:
            raise InterruptedError(f"stopped at step {outcome.step} of {outcome.steps}; the same command goes on")
        records, weight = outcome.records, build_parts(recipe).objective.total_weight
    else:
        parts, metrics = build_parts(recipe), Metrics(None)
        if recipe.model.init:
            initialise(parts.model, parts.objective, recipe.model.init)
        engine = build_engine(parts, Parallel(), metrics)
        engine.callbacks.append(Share())
        engine.fit()
        records, weight = metrics.records, parts.objective.total_weight
    _shares[index] = 1.0
    last = next(record for record in reversed(records) if any(name.startswith("eval/") for name in record))
    facts = {name: value for name, value in last.items() if name.startswith("eval/")}
    return Trained(facts, weight, sum(record.get("time/step", 0.0) for record in records))
