"""Saves the run every so many steps, at the end, and when it is asked to stop; in the background, if so wished.

The trap: in the background a save fails after its step, so its error is raised at the next save or at the end.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from workbench.distributed import launch
from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import is_divided
from workbench.engine import Callback, Engine, Logs
from workbench.training import checkpoint

__all__ = ["Checkpointing"]


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
        self.saved_step: int | None = None
        # its thread is joined when the interpreter ends: what it writes is finished after an error of this process
        self._writer = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future[None] | None = None

    def on_start(self, engine: Engine) -> None:
        self.saved_step = engine.step if engine.step else None

    def on_step(self, engine: Engine, logs: Logs) -> None:
        is_best = engine.best is not None and engine.best.step == engine.step
        is_due = any(engine.step % every == 0 for every in (self.every, self.keep_every) if every)
        if is_due or engine.finished or is_best:
            self._save(engine)

    def on_end(self, engine: Engine) -> None:
        if engine.step != self.saved_step and engine.step:
            self._save(engine)
        self._wait()

    def _save(self, engine: Engine) -> None:
        if engine.parallel.rank == 0:
            self._wait()
            engine.metrics.sync()
        if is_divided(engine.model):
            self._write(self._snapshot(engine), engine.parallel)
        elif engine.parallel.rank == 0 and self._writer:
            self._pending = self._writer.submit(self._write, self._snapshot(engine))
        elif engine.parallel.rank == 0:
            self._write(self._snapshot(engine))
        self.saved_step = engine.step
        engine.parallel.barrier("a checkpoint")

    def _snapshot(self, engine: Engine) -> checkpoint.Snapshot:
        state = checkpoint.State(engine.step, engine.best)
        copy = self._writer is not None
        return checkpoint.snapshot(engine.model, engine.objective, engine.optimizer, state, copy=copy)

    def _write(self, taken: checkpoint.Snapshot, parallel: Parallel | None = None) -> None:
        # not of divided weights: what another process was to write will never come
        with launch.saving() if parallel is None else nullcontext():
            checkpoint.write(self.folder, taken, parallel)
        if parallel is None or parallel.rank == 0:
            checkpoint.prune(self.folder, self.keep, taken.state.best, self.keep_every)

    def _wait(self) -> None:
        """Until the checkpoint in flight is written. Raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()
