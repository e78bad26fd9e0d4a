"""Where the members of webdataset tars lie: listed once, remembered beside the tars, read by offset.

The trap: a compressed tar has no offsets to read from, and is refused here; only streaming takes it.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from workbench.decode import read_bytes
from workbench.types import Skipped

KINDS = {"image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "txt": (".txt",)}
KINDS["json"] = (".json",)
EXTENSIONS = {extension: kind for kind, extensions in KINDS.items() for extension in extensions}
COLUMN = {kind: 2 * place for place, kind in enumerate(KINDS)}
"""column of a kind's offset in an index; the size is the next one"""
FORMAT = 1
"""of the index files: another number, and they are written anew"""
BLOCK = 512


def stem_and_kind(name: str) -> tuple[str, str | None]:
    """What joins the members of a sample, and what a member is; None when it is neither picture nor caption."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")), EXTENSIONS.get(path.suffix.lower())


@dataclass(frozen=True)
class Index:
    """(offset, size) of the picture, the .txt and the .json of every sample with a picture; -1 where there is none."""

    rows: Int64[ndarray, "n 6"]
    cut: bool = False
    """the tar is damaged; what lies before is listed"""


def list_pairs(tar: Path) -> Index:
    """The samples of a tar, in its order, up to where it is damaged. Raises ValueError when it is not a tar."""
    found: dict[str, list[int]] = {}
    at = 0
    try:
        with tarfile.open(tar, "r:") as archive:
            try:
                for member in archive:
                    at = member.offset_data
                    stem, kind = stem_and_kind(member.name)
                    if member.isfile() and kind:
                        place = found.setdefault(stem, [-1] * 2 * len(KINDS))
                        place[COLUMN[kind] : COLUMN[kind] + 2] = [member.offset_data, member.size]
            except tarfile.TarError:
                if not at:
                    raise
            at = archive.offset
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{tar} is not a readable tar: {error}; remove it, build it again, or unpack it where it is compressed"
        ) from None
    end = tar.stat().st_size
    # tarfile takes a damaged header for the end: only zeros are one
    cut = at > end or bool(read_bytes(tar, at, BLOCK).strip(b"\0"))
    rows = [place for place in found.values() if place[0] >= 0 and max(map(sum, _places(place))) <= end]
    return Index(np.array(rows, dtype=np.int64).reshape(-1, 2 * len(KINDS)), cut)


def _places(row: Sequence[int]) -> list[Sequence[int]]:
    return [row[i : i + 2] for i in range(0, len(row), 2)]


def index(tar: Path) -> Index:
    """`list_pairs`, remembered as TAR.index.npy, or in the user's cache where that cannot be written.

    A tar of another size or time of change is listed again.
    """
    status = tar.stat()
    stamp = [FORMAT, status.st_size, status.st_mtime_ns]
    files = (tar.with_name(f"{tar.name}.index.npy"), cache_folder() / f"{_digest(tar)}.npy")
    for file in files:
        try:
            table = np.load(file, allow_pickle=False)
            if table.dtype == np.int64 and table.shape[1:] == (2 * len(KINDS),) and table[0, :3].tolist() == stamp:
                return Index(table[1:], bool(table[0, 3]))
        except (OSError, ValueError, EOFError, IndexError):  # not there, or damaged
            continue
    listed = list_pairs(tar)
    head = np.zeros((1, 2 * len(KINDS)), np.int64)
    head[0, :4] = [*stamp, listed.cut]
    for file in files:
        if _save(file, np.concatenate([head, listed.rows])):
            break
    return listed


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimodal-workbench" / "tars"


def _digest(tar: Path) -> str:
    return blake2b(str(tar.resolve()).encode(), digest_size=16).hexdigest()


def _save(file: Path, table: Int64[ndarray, "n 6"]) -> bool:
    """Whole or not at all, as other processes may read and write it at the same time. False where it cannot be."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as out:
            np.save(out, table)
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return False
    return True


class Tars:
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
        return read_bytes(self.files[self.tar[index]], offset, size)

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

    tars: Tars
    damaged: list[str]
    tar: ndarray
    offset: ndarray

    def __len__(self) -> int:
        return len(self.damaged) + len(self.offset)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if at < len(self.damaged):
            return Skipped(self.damaged[at], "the tar is damaged or cut off; what lies before is used")
        at -= len(self.damaged)
        name = self.tars.member(int(self.tar[at]), int(self.offset[at]))  # an IndexError ends an iteration
        return Skipped(name, f"no .{'json' if self.tars.caption_key else 'txt'} of the same name")


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
