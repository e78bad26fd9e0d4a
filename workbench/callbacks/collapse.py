"""Says once that a learned scale has fallen to its lower limit, which is how a model that collapses shows first.

The trap: a model that gives one embedding to everything has a loss that is steady, finite and below its first value.
Nothing on the curve says that it will never learn.
"""

import math
import sys

from workbench.engine import Callback, Engine
from workbench.training.metrics import Record

__all__ = ["Collapse"]

NEAR = 1.0001
"""times the limit: a scale that was put back to it differs by a rounding"""


class Collapse(Callback):
    """Reads the metrics, which come late on a GPU, so that no step waits for it."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, engine: Engine) -> None:
        self._least, self._batch = engine.objective.scale_falls_to, engine.batch
        if self._least and engine.parallel.rank == 0:
            engine.metrics.listeners.append(self._look)

    def _look(self, record: Record) -> None:
        scale = record.get("train/scale")
        if self._said or scale is None or scale > self._least * NEAR:
            return
        self._said = True
        sys.stderr.write(
            f"step {record['step']}: the scale has fallen to its lower limit ({self._least:g}), as it does where all "
            f"embeddings have become one. The loss is {record['train/loss']:.4f}; an InfoNCE term that tells nothing "
            f"apart is ln {self._batch} = {math.log(self._batch):.4f}. If it stays there, begin again with --fresh and "
            "a lower train.lr or a longer train.warmup. It is said once\n"
        )
