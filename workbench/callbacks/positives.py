"""Says once which terms of the loss had nothing to learn from, as their value alone does not tell.

The trap: a term without a positive is exactly 0, which on a curve looks like success.
"""

import sys

from workbench.engine import Callback, Engine
from workbench.training.metrics import Record

__all__ = ["Positives"]

PREFIX = "train/positives/"
"""of the shares of rows that have a positive, a number for each term, which objectives log"""


class Positives(Callback):
    """Reads the metrics, which come late on a GPU, so that no step waits for it."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def on_start(self, engine: Engine) -> None:
        if engine.parallel.rank == 0:
            engine.metrics.listeners.append(self._look)

    def _look(self, record: Record) -> None:
        for name, share in record.items():
            if name.startswith(PREFIX) and share == 0 and name not in self._said:
                self._said.add(name)
                sys.stderr.write(
                    f"step {record['step']}: {name} is 0: no row of the batch has a positive there, so this part of "
                    "the loss is 0 and teaches nothing. A contrast needs both its sides in one sample, one between "
                    "views two of them (data.views, data.captions). It is said once, and counted under that name\n"
                )
