"""How a process of many imports begins and ends sooner, by leaving its million objects alone; imports nothing itself.

The trap: whoever calls these functions changes the whole process. They are for commands and workers, never for what a
notebook calls.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

USUAL = gc.get_threshold()
RARE = 50_000
"""new objects between two searches for garbage; at Python's 700 they are an eighth of `import torch`"""


def collect_rarely() -> None:
    """Look for garbage rarely, while a program is put together of what stays, and not once more when it ends."""
    gc.set_threshold(RARE, *USUAL[1:])
    atexit.register(gc.freeze)  # or Python's end goes through all objects, a sixth of `import torch`


def collect_as_usual() -> None:
    """Look for garbage as often as Python does again; changes nothing where `collect_rarely` was not called.

    A training wants that: an objective that leaves a circle of tensors at every step would fill the memory with them.
    """
    if gc.get_threshold()[0] == RARE:
        gc.set_threshold(*USUAL)


def leave(end: SystemExit) -> None:
    """End this process as Python would, except that the memory is given back as a whole: a quarter of a second.

    For commands that only print. Raises `end` where the last lines cannot be written, which Python tells best.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None where a shell has closed it
                stream.flush()
    except (OSError, ValueError):
        raise end from None
    atexit._run_exitfuncs()  # pyright: ignore[reportAttributeAccessIssue] as multiprocessing does in its children
    if end.code is None or isinstance(end.code, int):
        os._exit(end.code or 0)
    raise end
