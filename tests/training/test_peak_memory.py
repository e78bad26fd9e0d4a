"""The peak of a run is its own, and not that of a larger one before it in the same process."""

import sys

import pytest
import torch

from workbench.training.peak_memory import count_peak_anew, read_peak

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the peak cannot be counted anew there")
def test_the_peak_of_a_later_run_forgets_an_earlier_one() -> None:
    cpu = torch.device("cpu")
    block = torch.ones(96 * MIB, dtype=torch.uint8)
    large = read_peak(cpu)
    assert large > 96 * MIB  # and no more is sure: a kernel may take pages away that nobody touches
    del block
    count_peak_anew(cpu)
    assert read_peak(cpu) < large - 60 * MIB
