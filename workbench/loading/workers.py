"""Data workers: processes that decode ahead of training, what they hand over, and their end.

The trap: a worker that raises and a worker that outlives its parent both end in a wait without end. torch hands an
exception over by pickling it, which not every one survives, and Python waits at its exit for children that ignore its
SIGTERM, as these do. So a failure travels as a text, in the place of a batch, and no worker outlives `read_batches`.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from threading import Timer

from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from workbench.types import Batch

GRACE = 3.0
"""seconds that a worker has to finish the sample it is at, before it is killed"""

_running: set[_MultiProcessingDataLoaderIter] = set()
"""those that have workers"""


def read_batches(loader: DataLoader) -> Iterator[Batch]:
    """Give the batches of a loader, and raise the failure that a worker hands over in the place of one.

    The workers are gone when this generator is: after its last batch, an exception in it, or its `close`.
    """
    batches = iter(loader)
    running, stop = _running, stop_workers  # a generator that is closed at the very end finds no globals
    mine = batches if isinstance(batches, _MultiProcessingDataLoaderIter) else None
    if mine is not None:
        running.add(mine)
    try:
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        if mine is not None and mine in running:
            stop(mine)


def ignore_stops(_: int) -> None:
    """Let a worker live on when Ctrl-C or a scheduler signals the whole process group.

    The parent finishes its step and needs its workers for it. They end when it tells them to, or within seconds of its
    death.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def stop_workers(batches: _MultiProcessingDataLoaderIter, grace: float = GRACE) -> None:
    """End the workers behind an iterator: politely, then, after `grace` seconds, by force."""
    _running.discard(batches)
    if batches._worker_pids_set:  # or torch would take their end for an accident, and raise in the middle of anything
        _remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    if grace:
        timer = Timer(grace, _kill, [batches._workers])  # torch's own force is SIGTERM, which they ignore
        timer.daemon = True
        timer.start()
        batches._shutdown_workers()
        timer.cancel()
    _kill(batches._workers)


def _kill(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def _stop_all() -> None:
    """End what is left at the exit of Python: an exception that nobody has let go of keeps its generator alive."""
    for batches in list(_running):
        stop_workers(batches, grace=0)


atexit.register(_stop_all)  # runs before multiprocessing's own, which was registered by the imports above, and waits
