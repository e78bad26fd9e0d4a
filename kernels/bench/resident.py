"""Resident memory of this process and its peak, which can be counted anew on Linux."""

from __future__ import annotations

import ctypes
import gc
import platform
import resource
from pathlib import Path

RESETTABLE = Path("/proc/self/clear_refs")
"""what has to exist for the peak to be reset"""


def _read_status(field: str) -> int:
    """Reads bytes from what Linux says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")


def reset_peak() -> int:
    """Counts the peak anew from here on, and returns the bytes that are resident now.

    Elsewhere than on Linux the peak goes on from where it was.
    """
    gc.collect()
    if not RESETTABLE.exists():
        return peak()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    RESETTABLE.write_text("5")  # proc(5)
    return _read_status("VmRSS")


def peak() -> int:
    """Returns the most resident bytes since the reset, or since the process began."""
    if RESETTABLE.exists():
        return _read_status("VmHWM")
    # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
