"""What both fuzz tests share: how long they last, their seeds, and a limit on the time that one case may take.

`just fuzz SECONDS` runs both; half of WB_FUZZ is the time of each, and WB_FUZZ_SEED draws the cases of a failure again.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = float(os.environ.get("WB_FUZZ", "16")) / 2
"""of each of the two; the default is that of CI"""
LONG = "WB_FUZZ" in os.environ
"""whether the time is all that ends a test; else it ends after a number of cases, too"""
PATIENCE = 60
"""seconds that one case may take, on a machine that does other things, too"""


class Hang(BaseException):
    """A case took longer than PATIENCE. No `except Exception` swallows it."""


@contextmanager
def limit(seconds: int = PATIENCE) -> Iterator[None]:
    """Raise Hang where a block takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fresh_seed() -> int:
    """Draw a seed and print it; WB_FUZZ_SEED is taken instead."""
    seed = int(os.environ.get("WB_FUZZ_SEED", random.SystemRandom().randrange(2**31)))
    print("seed", seed)
    return seed
