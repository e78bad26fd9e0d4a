"""Stops a run whose loss or gradient is no longer a number, before the update that would spread it into the weights."""

import math
from pathlib import Path

from workbench.distributed.sharding import local_part
from workbench.engine import Callback, Engine, Logs

__all__ = ["NaNGuard", "NotFinite"]


class NotFinite(ArithmeticError):
    """A loss or gradient that is not a number; the message names the step, the parameter, and what may help."""


class NaNGuard(Callback):
    """Checks the loss and the global gradient norm of every step (one number: any bad gradient makes it bad).

    Args:
        run: the run folder, which the message names.
    """

    def __init__(self, run: Path | None = None) -> None:
        self.run = run

    def on_gradients(self, engine: Engine, logs: Logs) -> None:
        loss, norm = logs["loss"], logs["grad_norm"]
        if math.isfinite(loss + norm):  # the one place in a step where the CPU waits for a GPU
            return
        named = [*engine.model.named_parameters(), *engine.objective.named_parameters()]
        where = next(
            (name for name, p in named if p.grad is not None and not local_part(p.grad).isfinite().all()),
            "no single parameter",
        )
        raise NotFinite(
            f"step {engine.step + 1}: loss {float(loss)}, gradient norm {float(norm)}; "
            f"first non-finite gradient: {where}. The update was not made. {self._remedy(engine)}"
        )

    def _remedy(self, engine: Engine) -> str:
        """Name what the next command may change: a run that has a checkpoint goes on with its own settings only."""
        settings = "a lower train.lr, a longer train.warmup or a smaller train.clip"
        if not engine.saved_step:
            return f"No step was saved, so the same command with {settings} begins again"
        return (
            f"The checkpoint of step {engine.saved_step} is from before it. A resume keeps the settings: begin again "
            f"with --fresh and {settings}, or take its weights into another run: "
            f"--run OTHER --set model.init={self.run or 'RUN'} with {settings}"
        )
