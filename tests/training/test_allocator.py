"""Freed memory is kept: the second use of a large block costs no page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from workbench.training.allocator import keep_memory
kept = KEEP
def faults():
    for size in (9_000_000, 12_000_000):
        np.ones(size, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults() for _ in range(15)]
print(int(kept), counts[-1] - counts[4])  # the first ones find their places
"""


@pytest.mark.slow
def test_freed_memory_is_not_handed_back() -> None:
    """In processes of their own: one that keeps its memory does so to its end."""
    (_, without), (kept, count) = (
        map(int, subprocess.check_output([sys.executable, "-c", FAULTS.replace("KEEP", keep)]).split())
        for keep in ("False", "keep_memory()")
    )
    if not kept:
        pytest.skip("not glibc")
    assert 10 * count < without, (count, without)
