"""Memory that training on a CPU frees and takes again stays with the process.

glibc returns every large block to the system when it is freed, and every step takes its activations anew: the system
then hands over, page by page, memory that it first fills with zeros. With the blocks kept, a step of small towers has
hardly a page fault instead of eighteen thousand, which took .03 of its .54 seconds. The trap: the process keeps its
peak, so commands that train ask for it, and nothing that a notebook calls does.
"""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""names of glibc's malloc.h"""


def keep_memory() -> bool:
    """Tell glibc to keep freed memory; returns False where the C library is another one, and nothing is done."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(MMAP_THRESHOLD, 1 << 30) or mallopt(MMAP_THRESHOLD, 1 << 25)  # older versions take 32 MiB at most
    return bool(kept and mallopt(TRIM_THRESHOLD, (1 << 31) - 1))
