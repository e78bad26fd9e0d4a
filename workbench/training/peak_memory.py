"""The most memory that a process has used since a run began in it: of the GPU where there is one, else resident.

The trap: a process that trains one run after the other keeps the peak of the largest, unless it is counted anew.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def count_peak_anew(device: torch.device) -> None:
    """Forget the peak until now; where the system cannot, as on macOS, it goes on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        CLEAR.write_text("5")  # proc(5): the high-water mark becomes what is resident now


def read_peak(device: torch.device) -> int:
    """Read the peak in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
