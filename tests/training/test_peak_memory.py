"""The peak of a run is its own, and not that of a larger one before it in the same process."""

import mmap
import sys

import pytest
import torch

from workbench.training.peak_memory import count_peak_anew, read_peak

MIB = 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak cannot be counted anew there")
def test_the_peak_of_a_later_run_forgets_an_earlier_one() -> None:
    cpu = torch.device("cpu")
    # pages of the kernel, not of malloc, which may hand out, and keep, what tests before have freed
    count_peak_anew(cpu)
    with mmap.mmap(-1, 96 * MIB) as block:
        block.write(b"1" * len(block))
        large = read_peak(cpu)
    assert large > 96 * MIB
    count_peak_anew(cpu)
    assert read_peak(cpu) < large - 60 * MIB
