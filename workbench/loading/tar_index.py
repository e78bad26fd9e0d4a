"""Where the members of webdataset tars lie: listed once, remembered beside the tars.

The trap: a compressed tar has no offsets to read from, and is refused; a tar behind a tar (`cat a.tar b.tar`) is not
seen by those who stop at the first end mark.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from workbench.loading.grouping import LINK, SPARSE, SPECIAL, Grouping, Index

FORMAT = 2
"""of the index files: another number, and they are written anew"""
BLOCK = 512
PADDING = 2**20 + 2**10
"""zeros that may stand at the end of a sound tar: the end mark, and what fills tar's largest record"""
DAMAGED = "the tar is damaged or cut off; what lies before is used"


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """of its content"""
    size: int
    """of its content, or LINK, SPARSE, SPECIAL where that is not there as it is"""
    at: int
    """where its header begins, with all that belongs to a long name"""


class Fault(NamedTuple):
    """A fault at a place of a tar that ends the reading of it: nothing behind it is read."""

    reason: str


class NextArchive(NamedTuple):
    """Another tar begins behind the end mark of the one before."""


def list_members(tar: Path) -> Index:
    """Group the members of a tar, up to where it is damaged. Raises ValueError when it is not a tar."""
    end = tar.stat().st_size
    grouping = Grouping()
    faults: list[str] = []
    for found in members(tar):
        if isinstance(found, Fault):
            faults.append(found.reason)
        elif isinstance(found, NextArchive):
            grouping.close()
        elif found.offset + found.size > end:
            faults.append(DAMAGED)
            break
        else:
            grouping.add(found.name, found.at, found.offset, found.size)
    return grouping.index(faults)


def members(tar: Path) -> Iterator[Member | Fault | NextArchive]:
    """List the files in the order of the tar; folders are none.

    Plain headers are read here, in less than half the time; all others (long names, links) by tarfile. Raises
    ValueError when it is not a tar.
    """
    try:
        with tarfile.open(tar, "r:") as archive, tar.open("rb", buffering=0) as file:
            at = 0
            while header := os.pread(file.fileno(), BLOCK, at):
                if not header.strip(b"\0"):
                    found = _behind_the_end(file, at)
                    if found is None:
                        if (rest := os.fstat(file.fileno()).st_size - at) > PADDING:
                            yield Fault(f"its last {rest:,} bytes are zeros: was it fetched to its end?")
                        return
                    at = found
                    header = os.pread(file.fileno(), BLOCK, at)
                    if not _is_header(header):
                        yield Fault(f"{os.fstat(file.fileno()).st_size - at} bytes behind its end are no tar")
                        return
                    yield NextArchive()
                member, after = plain_member(header, at) or _special_member(archive, at)
                if after <= at:  # a negative size would lead in circles
                    yield Fault(DAMAGED)
                    return
                if member:
                    yield member
                at = after
            yield Fault("the tar has no end mark: it was cut off, or is still being written")
    except tarfile.HeaderError:
        yield Fault(DAMAGED)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{tar} is not a readable tar: {error}; remove it, build it again, or unpack it where it is compressed"
        ) from None


def _behind_the_end(file: BinaryIO, at: int, chunk: int = 2**20) -> int | None:
    """Find the first block that is not zero, from `at` on: tars are padded, and some stand behind one another."""
    while content := os.pread(file.fileno(), chunk, at):
        rest = content.lstrip(b"\0")
        if rest:
            return at + (len(content) - len(rest)) // BLOCK * BLOCK
        at += len(content)
    return None


def _is_header(header: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def plain_member(header: bytes, at: int) -> tuple[Member, int] | None:
    """Read (a regular file, where the next header is) from a sound ustar header at `at`; None for anything else."""
    if len(header) < BLOCK or header[156:157] not in (b"0", b"\0"):
        return None
    try:
        size, checksum = int(header[124:136].strip(b" \0"), 8), int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        return None
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    name, prefix = (field.partition(b"\0")[0] for field in (header[:100], header[345:500]))
    if name.endswith(b"/"):  # how tars before POSIX said that it is a folder
        return None
    name = prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name
    member = Member(name.decode("utf-8", "surrogateescape"), at + BLOCK, size, at)
    return member, member.offset + -(-size // BLOCK) * BLOCK


def _special_member(archive: tarfile.TarFile, at: int) -> tuple[Member | None, int]:
    """Read the same by tarfile; None for a folder. Raises tarfile.HeaderError."""
    info = read_header(archive, at)
    size = info.size
    if info.issym() or info.islnk():
        size = LINK
    elif info.issparse():
        size = SPARSE
    elif not info.isfile():
        size = SPECIAL
    return None if info.isdir() else Member(info.name, info.offset_data, size, at), archive.offset


def read_header(archive: tarfile.TarFile, at: int) -> tarfile.TarInfo:
    """Read the header at `at`, with whatever of a long name stands before it. Raises tarfile.HeaderError."""
    assert archive.fileobj is not None
    archive.fileobj.seek(at)
    archive.offset = at
    return tarfile.TarInfo.fromtarfile(archive)


def index(tar: Path) -> Index:
    """List the members of a tar once: TAR.index.npy, or a file in the user's cache, remembers them.

    A tar of another size or time of change is listed again.
    """
    status = tar.stat()
    stamp = [FORMAT, status.st_size, status.st_mtime_ns]
    files = (tar.with_name(f"{tar.name}.index.npy"), cache_folder() / f"{_digest(tar)}.npy")
    for file in files:
        if found := _load(file, stamp):
            return found
    listed = list_members(tar)
    for file in files:
        if _save(file, stamp, listed):
            break
    return listed


def cache_folder() -> Path:
    """Name the folder for indices of tars in folders that cannot be written."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimodal-workbench" / "tars"


def _digest(tar: Path) -> str:
    # of the place, not of the content: a tar is a gigabyte, and the stamp inside tells whether it is the same one
    return blake2b(str(tar.resolve()).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _load(file: Path, stamp: list[int]) -> Index | None:
    """Read what `_save` wrote; None where it is not there, damaged, or of another tar."""
    try:
        with file.open("rb") as source:
            head, words, small, large = (np.load(source, allow_pickle=False) for _ in range(4))
        endings, faults, beside = json.loads(bytes(words))
        if head.tolist() != stamp or small.shape[1] != 3 or large.shape != (len(small), 2):
            return None
        if len(small) and not (small[:, 1].min() >= 0 and small[:, 1].max() < len(endings)):
            return None
        rows = np.column_stack([small[:, :2], large[:, 0] - small[:, 2], large]).astype(np.int64)
        return Index(rows, endings, faults, beside)
    except (OSError, ValueError, EOFError, IndexError):
        return None


def _save(file: Path, stamp: list[int], listed: Index) -> bool:
    """Write an index whole or not at all, as other processes may read and write it at the same time.

    The arrays stand one behind the other in one file, offsets in 64 bits, all else in 32. False where it cannot be.
    """
    words = np.frombuffer(json.dumps([listed.endings, listed.faults, listed.beside]).encode(), np.uint8)
    rows = listed.rows
    small = np.column_stack([rows[:, :2], rows[:, 3] - rows[:, 2]]).astype(np.int32)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as out:
            for array in (np.array(stamp), words, small, rows[:, 3:]):
                np.save(out, array, allow_pickle=False)
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return False
    return True
