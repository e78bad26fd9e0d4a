"""Copies of the user's own code that a run has kept: its recipe names files and modules, and the copies are loaded.

A run's `code.json` is {"files": {file or module: {"copy": its path below the run, "blake2b", "commit"}}}, a module by
its dotted name; runs of versions before 0.2 have {"file.py:Class": digest} there, and no copies.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class KeptName(str):
    """The name of a user's own class as a recipe writes it, `file.py:Class` or `module:Class`, whose code is loaded
    from `copy`.

    Recipes that name the same code are equal, wherever their code is loaded from.
    """

    copy: Path

    def __new__(cls, name: str, copy: Path) -> Self:
        self = super().__new__(cls, name)
        self.copy = copy
        return self

    def __reduce__(self) -> tuple[type[KeptName], tuple[str, Path]]:
        return KeptName, (str(self), self.copy)


@dataclass(frozen=True)
class KeptFile:
    """A copy of a file, with the digest of what was copied."""

    copy: Path
    blake2b: str


def read_kept(run: Path) -> dict[str, KeptFile]:
    """Read {file or module: its copy} of a run folder, without copies that were removed; empty where it kept none."""
    try:
        found = json.loads((run / "code.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return {}
    kept = {file: KeptFile(run.resolve() / each["copy"], each["blake2b"]) for file, each in found.items()}
    return {file: each for file, each in kept.items() if each.copy.is_file()}


def find_copy(kept: Mapping[str, KeptFile], file: Path) -> Path | None:
    """Find the copy of a file, which may have moved since; warns where the file is another one now."""
    found = kept.get(str(file))
    if found is None:  # where a file of this name is gone from its old place, this is where it has moved to
        moved = [each for name, each in kept.items() if Path(name).name == file.name and not Path(name).exists()]
        found = moved[0] if len(moved) == 1 else None
    if found and file.is_file():
        _warn_of_changes(file, found)
    return found.copy if found else None


def find_module_copy(kept: Mapping[str, KeptFile], module: str) -> Path | None:
    """Find the copy of a module by its dotted name; warns where the module's file is another one now."""
    found = kept.get(module)
    if found and (file := _locate(module)):
        _warn_of_changes(file, found)
    return found.copy if found else None


def _locate(module: str) -> Path | None:
    """Find the file of a module on Python's path without importing anything, which would run its packages' code."""
    below = Path(*module.split("."))
    files = (
        Path(root) / name for root in (".", *sys.path) for name in (below.with_suffix(".py"), below / "__init__.py")
    )
    return next((file.absolute() for file in files if file.is_file()), None)


def _warn_of_changes(file: Path, found: KeptFile) -> None:
    if compute_digest(file) != found.blake2b:
        warnings.warn(
            f"{file} has changed since the run began: the run's copy is used, {found.copy}; "
            "to go on with the file as it is now, remove the copy",
            stacklevel=1,  # one place for all callers: Python says each text once a place
        )


def compute_digest(file: Path) -> str:
    """Compute the BLAKE2b digest of a file's bytes, in 32 hexadecimal digits."""
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
