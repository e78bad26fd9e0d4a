"""Chunks of a loss side by side on a CPU: a thread takes a chunk through all operators, each of them undivided.

OpenMP would divide every operator among its threads, and have them wait for one another at its end, spinning. Where
another program holds one of the cores, each of hundreds of operators then waits for a time slice. Here a thread that
has done with a chunk takes the next, and waits for nothing but its turn where chunks are added up.

Whatever the number of threads, an operator sees one, and chunks are added up in their order: the results are the same
to the last bit.

Traps
- A new thread knows nothing of the caller's modes: gradients are off (operators bring theirs along), inference mode is
  handed on, and a TorchDispatchMode sees nothing of what is done here.
- torch.set_num_threads sets the number of the thread that calls it, and the number with which new ones begin. The
  caller sets the second right again, by setting the first to what it is.
- The threads of a loss wait for the next one, as new ones would cost it milliseconds and the memory that MKL keeps for
  each. A process that is forked has none of them, so it forgets them; at the end of a program they end by themselves.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

R = TypeVar("R")
T = TypeVar("T")


class Stopped(Exception):
    """Says that there is no use in going on: another chunk has failed, or the caller was interrupted."""


class Turns:
    """Lets chunks of rows through gates, each gate one at a time and in the order of the rows.

    Every chunk has to go through every gate that any goes through: the next would wait for it for ever.
    """

    def __init__(self) -> None:
        self._first: dict[Hashable, int] = defaultdict(int)
        """of each gate, the first row of the chunk whose turn it is"""
        self._changed, self._broken = threading.Condition(), False

    @contextmanager
    def take(self, rows: slice, gate: Hashable) -> Iterator[None]:
        """Waits until all rows before these have gone through. Raises Stopped where they never will."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._first[gate] == rows.start)
            if self._broken:
                raise Stopped
        yield
        with self._changed:
            self._first[gate] = rows.stop
            self._changed.notify_all()

    def break_off(self) -> None:
        """Ends all waiting."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()


class _Crew:
    """Runs functions on threads of its own, on which torch's operators have one thread and record no gradients."""

    def __init__(self, size: int):
        self.size, self.interrupted = size, threading.Event()
        num_threads = torch.get_num_threads()
        self._pool, ready = ThreadPoolExecutor(size), threading.Barrier(size)

        def prepare() -> None:
            torch.get_num_threads()  # the first question sets a thread's number, and would undo ours if it came later
            torch.set_num_threads(1)
            ready.wait()  # a thread that were free would be given the next of these, in the place of a new thread

        try:
            for prepared in [self._pool.submit(prepare) for _ in range(size)]:
                prepared.result()
        except BaseException:
            ready.abort()
            self._pool.shutdown()
            raise
        finally:
            torch.set_num_threads(num_threads)

    def end(self) -> None:
        """Ends the threads, as soon as they have done with the chunks at which they are."""
        self.interrupted.set()
        self._pool.shutdown()

    def submit(self, run: Callable[[], R]) -> Future[R]:
        """Runs a function on one of the threads, in the inference mode of this one."""
        inference = torch.is_inference_mode_enabled()

        def run_in_mode() -> R:
            with torch.inference_mode(inference), torch.no_grad():
                return run()

        return self._pool.submit(run_in_mode)


_idle: list[_Crew] = []
"""the crew that is kept, if it is not at work"""
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_idle.clear)
_here = threading.local()
"""`crew` is set on the thread that leads one"""


def run_on_threads(run: Callable[[], R], most: int) -> R:
    """Runs a function in which `run_each` has the threads that torch has here, and at most so many.

    Raises what the function raises.
    """
    size = min(torch.get_num_threads(), most)
    if size < 2:
        return run()

    def lead() -> R:
        _here.crew = crew
        return run()

    try:
        crew = _take_crew(size)
        # The caller computes nothing of it, as its own operators have OpenMP's threads
        leading = crew.submit(lead)
    except RuntimeError:  # Python is about to end, and starts no threads any more
        return run()
    try:
        result = leading.result()
    except BaseException:
        crew.end()
        raise
    # One crew is kept: that of a caller who has others at the same time ends
    if _idle:
        crew.end()
    else:
        _idle.append(crew)
    return result


def _take_crew(size: int) -> _Crew:
    """Takes the crew that is kept, if it has the right size, or makes one."""
    try:
        crew = _idle.pop()
    except IndexError:
        return _Crew(size)
    if crew.size == size:
        return crew
    crew.end()
    return _Crew(size)


def run_each(chunks: Iterable[T], work: Callable[[T], object], turns: Turns) -> None:
    """Calls `work` for all chunks, which are begun in their order, on the threads of run_on_threads or on this one.

    Raises what the first to fail raised, when no other is at work any more.
    """
    crew: _Crew | None = getattr(_here, "crew", None)
    if crew is None:
        for chunk in chunks:
            work(chunk)
        return
    left, failures = iter(list(chunks)), list[BaseException]()  # of a list, `next` is one step for all threads

    def take_chunks() -> None:
        for chunk in left:
            if failures or crew.interrupted.is_set():
                turns.break_off()  # nobody takes this chunk any more, and another may wait for it
                return
            try:
                work(chunk)
            except Stopped:
                return
            except BaseException as error:
                failures.append(error)
                turns.break_off()

    others = [crew.submit(take_chunks) for _ in range(crew.size - 1)]
    take_chunks()
    for other in others:
        other.result()
    if failures:
        raise failures[0]
    if crew.interrupted.is_set():
        raise Stopped
