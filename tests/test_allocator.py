"""Freed memory is kept: the second use of a large block costs no page faults."""

import subprocess
import sys

import pytest

from workbench.allocator import keep_memory

FAULTS = """
import resource
import numpy as np
from workbench.allocator import keep_memory
KEEP
def faults():
    for size in (9_000_000, 12_000_000):
        np.ones(size, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults() for _ in range(15)]
print(counts[-1] - counts[4])  # the first ones find their places
"""


@pytest.mark.skipif(not keep_memory(), reason="not glibc")
def test_freed_memory_is_not_handed_back() -> None:
    counts = [
        int(subprocess.check_output([sys.executable, "-c", FAULTS.replace("KEEP", keep)]))
        for keep in ("", "keep_memory()")
    ]
    assert 10 * counts[1] < counts[0], counts
