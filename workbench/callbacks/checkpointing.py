"""Saves the run every so many steps, at the end, and when it is asked to stop."""

from pathlib import Path

from workbench import checkpoint
from workbench.engine import Callback, Engine, Logs

__all__ = ["Checkpointing"]


class Checkpointing(Callback):
    """Metrics reach the disk before the checkpoint does, so a resume never finds a gap in them.

    Args:
        folder: where checkpoints go.
        every: optimizer steps between checkpoints.
        keep: newest checkpoints that are kept; the best one is kept too.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.saved_step: int | None = None

    def on_start(self, engine: Engine) -> None:
        self.saved_step = engine.step if engine.step else None

    def on_step(self, engine: Engine, logs: Logs) -> None:
        is_best = engine.best is not None and engine.best.step == engine.step
        if engine.step % self.every == 0 or engine.finished or is_best:
            self._save(engine)

    def on_end(self, engine: Engine) -> None:
        if engine.step != self.saved_step and engine.step:
            self._save(engine)

    def _save(self, engine: Engine) -> None:
        if engine.parallel.rank == 0:
            engine.metrics.sync()
            state = checkpoint.State(engine.step, engine.best)
            checkpoint.save(self.folder, engine.model, engine.objective, engine.optimizer, state)
            checkpoint.prune(self.folder, self.keep, engine.best)
        self.saved_step = engine.step
        engine.parallel.barrier()
