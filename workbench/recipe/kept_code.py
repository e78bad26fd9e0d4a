"""Copies of the user's own code that a run has kept: its recipe names the files, and the copies are loaded.

A run's `code.json` is {"files": {file: {"copy": its path below the run, "blake2b", "commit"}}}; runs of versions before
0.2 have {"file.py:Class": digest} there, and no copies.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class KeptName(str):
    """The name of a user's own class as a recipe writes it, `file.py:Class`, whose code is loaded from `copy`.

    Recipes that name the same file are equal, wherever their code is loaded from.
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
    """Read {file: its copy} of a run folder, without copies that were removed; empty where the run kept none."""
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
    if found and file.is_file() and compute_digest(file) != found.blake2b:
        warnings.warn(
            f"{file} has changed since the run began: the run's copy is used, {found.copy}; "
            "to go on with the file as it is now, remove the copy",
            stacklevel=1,  # one place for all callers: Python says each text once a place
        )
    return found.copy if found else None


def compute_digest(file: Path) -> str:
    """Compute the BLAKE2b digest of a file's bytes, in 32 hexadecimal digits."""
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
