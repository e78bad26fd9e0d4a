"""Stops a run whose loss or gradient is no longer a number, before the update that would spread it into the weights."""

import torch

from workbench.distributed.sharding import own
from workbench.engine import Callback, Engine, Logs

__all__ = ["NaNGuard", "NotFinite"]


class NotFinite(ArithmeticError):
    """A loss or gradient that is not a number; the message names the step and the parameter."""


class NaNGuard(Callback):
    """Checks the loss and the global gradient norm of every step (one number: any bad gradient makes it bad)."""

    def on_gradients(self, engine: Engine, logs: Logs) -> None:
        loss, norm = torch.as_tensor(logs["loss"]), torch.as_tensor(logs["grad_norm"])
        if torch.isfinite(loss + norm):
            return
        named = [*engine.model.named_parameters(), *engine.objective.named_parameters()]
        where = next(
            (name for name, p in named if p.grad is not None and not own(p.grad).isfinite().all()),
            "no single parameter",
        )
        raise NotFinite(
            f"step {engine.step + 1}: loss {float(loss)}, gradient norm {float(norm)}; "
            f"first non-finite gradient: {where}. The update was not made, and the last checkpoint is sound: "
            "lower train.lr, lengthen train.warmup, or set train.clip"
        )
