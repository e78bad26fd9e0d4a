"""Where the members of webdataset tars lie: listed once, remembered beside the tars.

The trap: a compressed tar has no offsets to read from, and is refused.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
KINDS = {"image": IMAGES, "txt": (".txt",), "json": (".json",)}
EXTENSIONS = {extension: kind for kind, extensions in KINDS.items() for extension in extensions}
COLUMN = {kind: 2 * place for place, kind in enumerate(KINDS)}
"""column of a kind's offset in an index; the size is the next one"""
FORMAT = 1
"""of the index files: another number, and they are written anew"""
BLOCK = 512


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
