"""Saves the run every so many steps, at the end, and when it is asked to stop; in the background, if so wished.

A step is saved first and evaluated afterwards, so that an evaluation that fails, or is killed for its memory, costs no
work. What the evaluation found is then written into the checkpoint: `KeepBest` stands behind it.

The trap: in the background a save fails after its step, so its error is raised at the next save or at the end.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from workbench.distributed import launch
from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import is_divided
from workbench.engine import Callback, Engine, Logs
from workbench.training import checkpoint, checkpoint_files

__all__ = ["Checkpointing", "KeepBest"]


class Checkpointing(Callback):
    """Metrics reach the disk before the checkpoint does, so a resume never finds a gap in them.

    Args:
        folder: where checkpoints go.
        every: optimizer steps between checkpoints.
        keep: newest checkpoints that are kept; the best one is kept too.
        keep_every: optimizer steps between checkpoints that are kept for ever, or None.
        background: write from a copy in another thread while training goes on, one checkpoint at a time.
    """

    def __init__(
        self, folder: Path, every: int, keep: int, keep_every: int | None = None, background: bool = False
    ) -> None:
        self.folder, self.every, self.keep, self.keep_every = folder, every, keep, keep_every
        self._damaged: set[int] = set()
        self._writer = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: list[Future[None]] = []

    def on_start(self, engine: Engine) -> None:
        # the run goes on from the newest whole checkpoint, so those that are newer than it are damaged
        steps = map(checkpoint_files.step_of, checkpoint_files.saved(self.folder))
        self._damaged = {step for step in steps if step > engine.step}

    def on_step(self, engine: Engine, logs: Logs) -> None:
        is_due = any(engine.step % every == 0 for every in (self.every, self.keep_every) if every)
        if is_due or engine.finished:
            self.save(engine)

    def on_end(self, engine: Engine) -> None:
        if engine.step != engine.saved_step:
            self.save(engine)
        self._wait()

    def on_exit(self, engine: Engine) -> None:
        if self._writer:  # what is being written is finished, also after an error: the folder is held as long
            self._writer.shutdown()

    def save(self, engine: Engine) -> None:
        """Save everything as it is now. Raises OSError; in the background, that of the save before."""
        if engine.parallel.rank == 0:
            self._wait()
            engine.metrics.sync()
        if is_divided(engine.model):
            self._write(self._snapshot(engine), engine.parallel)
        elif engine.parallel.rank == 0:
            taken = self._snapshot(engine)
            self._do(lambda: self._write(taken))
        engine.saved_step = engine.step
        engine.parallel.barrier("a checkpoint")

    def amend(self, engine: Engine) -> None:
        """Write into the checkpoint of this step, which was saved before, what is now known to be the best."""
        if engine.parallel.rank == 0:
            path, state = self.folder / f"step-{engine.step}", checkpoint_files.State(engine.step, engine.best)
            self._do(lambda: self._amend(path, state))

    def _snapshot(self, engine: Engine) -> checkpoint.Snapshot:
        state = checkpoint_files.State(engine.step, engine.best)
        copy = self._writer is not None
        return checkpoint.snapshot(engine.model, engine.objective, engine.optimizer, state, copy=copy)

    def _do(self, work: Callable[[], None]) -> None:
        """Do what writes, or leave it to the thread, which keeps the order."""
        if self._writer:
            self._pending.append(self._writer.submit(work))
        else:
            work()

    def _write(self, taken: checkpoint.Snapshot, parallel: Parallel | None = None) -> None:
        # the launcher waits for a process that saves when another has failed; divided weights are saved by all, and
        # what the failed one was to write will never come
        with launch.saving() if parallel is None else nullcontext():
            checkpoint.write(self.folder, taken, parallel)
        if parallel is None or parallel.rank == 0:
            self._prune(taken.state)

    def _amend(self, path: Path, state: checkpoint_files.State) -> None:
        if checkpoint_files.read_state(path) != state:  # a resume finds it as it left it
            checkpoint_files.amend(path, state)
            self._prune(state)

    def _prune(self, state: checkpoint_files.State) -> None:
        self._damaged.discard(state.step)  # the one that was just written is whole
        checkpoint_files.prune(self.folder, self.keep, state, self.keep_every, self._damaged)

    def _wait(self) -> None:
        """Wait until everything in flight is written. Raises what went wrong with it."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()


class KeepBest(Callback):
    """Sees to it that the best step has a checkpoint, which says so; stands behind the evaluation.

    Args:
        checkpoints: what saves.
    """

    def __init__(self, checkpoints: Checkpointing) -> None:
        self.checkpoints = checkpoints

    def on_start(self, engine: Engine) -> None:
        self._keep(engine)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        self._keep(engine)

    def _keep(self, engine: Engine) -> None:
        if engine.best is None or engine.best.step != engine.step:
            return
        if engine.saved_step == engine.step:
            self.checkpoints.amend(engine)
        else:
            self.checkpoints.save(engine)
