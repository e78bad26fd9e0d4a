"""Pairs of files side by side in folders: `a.jpg` beside `a.txt`, as img2dataset's format `files` has them.

Files belong together as the members of a tar do (workbench/loading/grouping.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from workbench.loading.captions import CaptionReader
from workbench.loading.choosing import Wanted, choose
from workbench.loading.grouping import AT, Grouping
from workbench.loading.paths import read_bytes, walk
from workbench.types import Skipped


class FilePairs:
    """The pairs of a folder and of those below it, in the order of their names.

    Args:
        root: the folder.
        wanted: which files are pictures and which captions.
        read_captions: what the content of such a file says.
    """

    files = None
    mixed: str | None = None

    def __init__(self, root: Path, wanted: Wanted, read_captions: CaptionReader) -> None:
        self.root, self._read_captions = root, read_captions
        grouping = Grouping()
        names: list[bytes] = []
        for file in walk(root, hidden=True):
            name = os.path.relpath(file, root)
            grouping.add(name.replace(os.sep, "/"), len(names), 0, 0)
            names.append(os.fsencode(name))
        index = grouping.index()
        chosen = choose(index, wanted)
        self.names = pa.array(names, pa.large_binary())  # in Arrow's memory, which worker processes share
        self.images, self.texts = index.rows[chosen.images, AT], index.rows[chosen.texts, AT]
        self.left_out = [
            Skipped(str(self._path(int(index.rows[row, AT]))), reason)
            for row, reason in zip(chosen.left_out.tolist(), chosen.reasons, strict=True)
        ]
        self.beside = chosen.beside

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(self._path(int(self.images[index])))

    def image(self, index: int) -> bytes:
        return read_bytes(self._path(int(self.images[index])))

    def captions(self, index: int) -> Sequence[object]:
        return self._read_captions(read_bytes(self._path(int(self.texts[index]))))

    def _path(self, place: int) -> Path:
        return self.root / os.fsdecode(self.names[place].as_py())
