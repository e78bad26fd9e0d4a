"""Where the members of webdataset tars lie: listed once, remembered beside the tars, read by offset.

The trap: a compressed tar has no offsets to read from, and is refused.
"""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from workbench.errors import BadSample, DataLost
from workbench.loading.decode import MAX_BYTES, read_bytes
from workbench.loading.pairs import Raw
from workbench.types import Skipped

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
KINDS = {"image": IMAGES, "txt": (".txt",), "json": (".json",)}
EXTENSIONS = {extension: kind for kind, extensions in KINDS.items() for extension in extensions}
COLUMN = {kind: 2 * place for place, kind in enumerate(KINDS)}
"""column of a kind's offset in an index; the size is the next one"""
FORMAT = 1
"""of the index files: another number, and they are written anew"""
BLOCK = 512
DAMAGED = "the tar is damaged or cut off; what lies before is used"


def stem_and_kind(name: str) -> tuple[str, str | None]:
    """What joins the members of a sample, and what a member is; None when it is neither picture nor caption."""
    stem, extension = posixpath.splitext(name)  # ten times as fast as a path's suffix
    return stem, EXTENSIONS.get(extension.lower())


@dataclass(frozen=True)
class Index:
    """(offset, size) of the picture, the .txt and the .json of every sample with a picture; -1 where there is none."""

    rows: Int64[ndarray, "n 6"]
    cut: bool = False
    """the tar is damaged; what lies before is listed"""


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int
    size: int


def list_pairs(tar: Path) -> Index:
    """The samples of a tar, in its order, up to where it is damaged. Raises ValueError when it is not a tar."""
    end = tar.stat().st_size
    found: dict[str, list[int]] = {}
    cut = False
    for member in members(tar):
        if member is None or member.offset + member.size > end:
            cut = True
            break
        stem, kind = stem_and_kind(member.name)
        if kind:
            place = found.setdefault(stem, [-1] * 2 * len(KINDS))
            place[COLUMN[kind] : COLUMN[kind] + 2] = member[1:]
    rows = [place for place in found.values() if place[COLUMN["image"]] >= 0]
    return Index(np.array(rows, dtype=np.int64).reshape(-1, 2 * len(KINDS)), cut)


def members(tar: Path) -> Iterator[Member | None]:
    """Regular files in the order of the tar; None, at the end, when a header is damaged or cut off.

    Plain headers are read here, in less than half the time; all others (long names, links) by tarfile. Raises
    ValueError when it is not a tar.
    """
    try:
        with tarfile.open(tar, "r:") as archive, tar.open("rb", buffering=0) as file:
            at = 0
            while (header := os.pread(file.fileno(), BLOCK, at)).strip(b"\0"):
                member, after = plain_member(header, at) or _special_member(archive, at)
                if after <= at:  # a negative size would lead in circles
                    yield None
                    return
                if member:
                    yield member
                at = after
    except tarfile.HeaderError:
        yield None
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{tar} is not a readable tar: {error}; remove it, build it again, or unpack it where it is compressed"
        ) from None


def plain_member(header: bytes, at: int) -> tuple[Member, int] | None:
    """(a regular file, where the next header is) from a sound ustar header at `at`; None for anything else."""
    if len(header) < BLOCK or header[156:157] not in (b"0", b"\0"):
        return None
    try:
        size, checksum = int(header[124:136].strip(b" \0"), 8), int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        return None
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    name, prefix = (field.partition(b"\0")[0] for field in (header[:100], header[345:500]))
    name = prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name
    member = Member(name.decode("utf-8", "surrogateescape"), at + BLOCK, size)
    return member, member.offset + -(-size // BLOCK) * BLOCK


def _special_member(archive: tarfile.TarFile, at: int) -> tuple[Member | None, int]:
    """The same by tarfile; None where it is no regular file. Raises tarfile.HeaderError."""
    assert archive.fileobj is not None
    archive.fileobj.seek(at)
    archive.offset = at
    info = tarfile.TarInfo.fromtarfile(archive)
    return Member(info.name, info.offset_data, info.size) if info.isfile() else None, archive.offset


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
