"""Where the members of webdataset tars lie: listed once, remembered beside the tars, read by offset.

The trap: a compressed tar has no offsets to read from, and is refused.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from workbench.errors import BadSample, DataLost
from workbench.loading.paths import MAX_BYTES, read_bytes
from workbench.loading.table import Raw
from workbench.loading.tar_index import BLOCK, COLUMN, index, members, stem_and_kind
from workbench.types import Skipped

DAMAGED = "the tar is damaged or cut off; what lies before is used"


class TarPairs:
    """The pairs of many tars as arrays: 36 bytes a pair, which worker processes share.

    Args:
        files: the tars, in the order of their pairs.
        caption_key: key of the .json; None: the lines of the .txt.

    Raises ValueError when one of them is not a tar.
    """

    def __init__(self, files: Sequence[str], caption_key: str | None) -> None:
        self.files, self.caption_key = list(files), caption_key
        with ThreadPoolExecutor(8) as pool:  # most of the time goes into waiting for the disk
            indices = list(pool.map(index, map(Path, files)))
        column = COLUMN["json" if caption_key else "txt"]
        rows = np.concatenate([i.rows for i in indices])
        tar = np.repeat(np.arange(len(indices), dtype=np.int32), [len(i.rows) for i in indices])
        complete = rows[:, column] >= 0
        self.rows, self.tar = rows[complete][:, [0, 1, column, column + 1]], tar[complete]
        damaged = [file for file, i in zip(files, indices, strict=True) if i.cut]
        self.left_out: Sequence[Skipped] = _LeftOut(self, damaged, tar[~complete], rows[~complete, 0])

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.member(int(self.tar[index]), int(self.rows[index, 0]))

    def image(self, index: int) -> bytes:
        return self._read(index, 0)

    def captions(self, index: int) -> list[Any]:
        return parse_captions(self._read(index, 2), self.caption_key)

    def _read(self, index: int, column: int) -> bytes:
        offset, size = self.rows[index, column : column + 2].tolist()
        file = self.files[self.tar[index]]
        try:
            return read_bytes(file, offset, size)
        except OSError as error:
            raise DataLost(f"{file} was listed, and now cannot be read there: {error}") from None

    def member(self, tar: int, offset: int) -> str:
        """The name of the member whose content is at `offset`: it stands in the block before."""
        file = self.files[tar]
        try:
            header = read_bytes(file, offset - BLOCK, BLOCK)
            return f"{file}: {tarfile.TarInfo.frombuf(header, 'utf-8', 'surrogateescape').name}"
        except (OSError, tarfile.TarError):
            return f"{file}: at byte {offset}"


@dataclass(frozen=True)
class _LeftOut(Sequence[Skipped]):
    """Damaged tars, and pictures without a caption: their names are read when asked for, as there may be millions."""

    tars: TarPairs
    damaged: list[str]
    tar: ndarray
    offset: ndarray

    def __len__(self) -> int:
        return len(self.damaged) + len(self.offset)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if at < len(self.damaged):
            return Skipped(self.damaged[at], DAMAGED)
        at -= len(self.damaged)
        name = self.tars.member(int(self.tar[at]), int(self.offset[at]))  # an IndexError ends an iteration
        return Skipped(name, f"no .{'json' if self.tars.caption_key else 'txt'} of the same name")


def read_tar(tar: str, caption_key: str | None) -> Iterator[Raw | BadSample]:
    """The pairs of a tar from front to back; the members of a pair must lie side by side."""
    text = "json" if caption_key else "txt"
    for stem, contents in _stems(tar):
        if isinstance(contents, BadSample):
            yield contents
        elif "image" in contents:
            name = f"{tar}: {stem}"
            if text not in contents:
                yield BadSample(name, f"no .{text} of the same name")
                continue
            try:
                yield Raw(name, contents["image"], parse_captions(contents[text], caption_key))
            except ValueError as error:
                yield BadSample(name, str(error))


def _stems(tar: str) -> Iterator[tuple[str, dict[str, bytes] | BadSample]]:
    """(what the members of a sample share, {kind: content})."""
    current, contents = "", {}
    try:
        with Path(tar).open("rb", buffering=0) as file:  # one handle: the system reads ahead of it
            end = os.fstat(file.fileno()).st_size
            for member in members(Path(tar)):
                if member is None or member.offset + member.size > end:
                    yield "", BadSample(tar, DAMAGED)
                    break
                stem, kind = stem_and_kind(member.name)
                if stem != current:
                    yield current, contents
                    current, contents = stem, {}
                if kind and member.size <= MAX_BYTES:
                    contents[kind] = os.pread(file.fileno(), member.size, member.offset)
        yield current, contents
    except (OSError, ValueError) as error:
        yield "", BadSample(tar, str(error))


def parse_captions(content: bytes, key: str | None) -> list[Any]:
    """The lines of a .txt, or what a .json holds under `key`: a text or a list. Raises ValueError."""
    text = content.decode("utf-8", "replace")
    if key is None:
        return text.splitlines()
    found = json.loads(text)
    if not isinstance(found, dict) or key not in found:
        keys = ", ".join(found) if isinstance(found, dict) else "no keys"
        raise ValueError(f"its .json has no '{key}' (it has: {keys})")
    return found[key] if isinstance(found[key], list) else [found[key]]
