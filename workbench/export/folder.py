"""The folder of an export: written beside its place, and put there when it has been verified, whole or not at all.

The trap: safetensors and Python's temporary folders are for their owner alone. An export is for others: its files have
the modes that the user's umask gives.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import writing


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """Give a new folder beside `out`, which takes its place at the end of the block; an error removes it.

    Raises ValueError where `out` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is there already and not empty" if out.is_dir() else "is a file"
        raise ValueError(f"--out {out} {what}: remove it, or choose another folder")
    draft = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.tmp")
    with writing(out):
        draft.mkdir(parents=True)
    try:
        yield draft
        with writing(out):
            _open_to_umask(draft)
            os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _open_to_umask(folder: Path) -> None:
    """Give every file and folder the mode that a new one gets."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
