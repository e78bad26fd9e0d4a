"""What a training changes of the process that it runs in; builders, which notebooks call too, change nothing.

`settle` is for the time of the process; `polite_stop` and `explained` are undone at the end of the training.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from workbench.engine import Engine
from workbench.errors import GO_ON


def settle(*, compiles: bool) -> None:
    """Settle what a training needs of torch's settings."""
    # torch warns of encoders that return views: writing into one would bypass FSDP's hooks, and nothing writes here
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    if compiles:
        # all towers may share a class of layer, and each shape is compiled with and without gradient, for frozen layers
        # and for others: more than torch's limit of eight, behind which it would go on uncompiled
        torch._dynamo.config.recompile_limit = 64
        # or it would cut a large layer where DistributedDataParallel cuts its messages
        torch._dynamo.config.optimize_ddp = False


@contextmanager
def polite_stop(engine: Engine) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the engine after the current step; a second SIGINT interrupts at once.

    Python hands signals to the main thread only: a training in another one is stopped by `engine.stop_requested`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(signum: int, frame: FrameType | None) -> None:
        if engine.stop_requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        engine.stop_requested = True
        if engine.parallel.rank == 0:
            os.write(2, b"\nfinishing this step, then saving; once more to stop at once\n")

    before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def explained(workers: int) -> Iterator[None]:
    """Raise ChildProcessError for the death of a data worker.

    torch has no class of its own for it: it raises a RuntimeError wherever training happens to be when the signal
    comes, or fails to read what the worker had promised.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(
                signal.SIGCHLD, signal.SIG_DFL
            )  # or torch's handler raises again, in the middle of the message
        what = f"a data worker died, perhaps killed for its memory: lower parallel.workers ({workers})"
        raise ChildProcessError(f"{what}. {GO_ON}") from None
