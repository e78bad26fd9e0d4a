"""Samples of files side by side in folders: `a.jpg` beside `a.txt`, as img2dataset's format `files` has them.

Files belong together as the members of a tar do (workbench/loading/grouping.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from numpy import ndarray

from workbench.loading.choosing import Wanted, choose
from workbench.loading.grouping import AT, Grouping
from workbench.loading.members import Readers
from workbench.loading.paths import read_bytes, walk
from workbench.types import Skipped


class FileSamples:
    """The samples of a folder and of those below it, in the order of their names.

    Args:
        folder: the folder.
        wanted: which files hold what.
        readers: what the content of such a file says.
    """

    files = None
    mixed: str | None = None

    def __init__(self, folder: Path, wanted: Wanted, readers: Readers) -> None:
        self.folder, self._readers = folder, readers
        grouping = Grouping()
        names: list[bytes] = []
        for file in walk(folder, hidden=True):
            name = os.path.relpath(file, folder)
            grouping.add(name.replace(os.sep, "/"), len(names), 0, 0)
            names.append(os.fsencode(name))
        index = grouping.index()
        chosen = choose(index, wanted)
        self.names = pa.array(names, pa.large_binary())  # in Arrow's memory, which worker processes share
        self.places = np.where(chosen.rows < 0, -1, index.rows[chosen.rows, AT])
        self.lead = index.rows[chosen.lead, AT]
        self.left_out = [
            Skipped(str(self._path(int(index.rows[row, AT]))), reason)
            for row, reason in zip(chosen.left_out.tolist(), chosen.reasons, strict=True)
        ]
        self.beside = chosen.beside

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        return str(self._path(int(self.lead[index])))

    def root(self, index: int, column: str) -> Path:
        return Path(self.name(index)).parent

    def cells(self, index: int, column: str) -> list[object]:
        there = ((int(self.places[index, slot]), read) for slot, read in self._readers[column])
        return [cell for place, read in there if place >= 0 for cell in read(read_bytes(self._path(place)))]

    def filled(self, column: str) -> Bool[ndarray, " n"]:
        return np.asarray((self.places[:, [slot for slot, _ in self._readers[column]]] >= 0).any(1))

    def _path(self, place: int) -> Path:
        return self.folder / os.fsdecode(self.names[place].as_py())
