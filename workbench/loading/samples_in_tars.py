"""Samples in webdataset tars: read by the offsets that an index remembers, or from front to back.

Nothing is ever unpacked: a member's name is a label, never a path.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from workbench.errors import BadSample, DataLost
from workbench.loading.choosing import TWICE, Chosen, Slot, Wanted, choose
from workbench.loading.grouping import AT, OFFSET, SIZE, Grouping, Index, split_name
from workbench.loading.members import Readers
from workbench.loading.paths import MAX_BYTES, is_hidden, read_bytes
from workbench.loading.table import Raw
from workbench.loading.tar_index import DAMAGED, Fault, Member, NextArchive, index, members, read_header
from workbench.types import Skipped

APART = "of the same name"
BESIDE = (
    "beside it: streaming needs the members of a sample side by side (tar --sort=name); data.streaming=false does not"
)
"""what stands for APART in a reason, when a tar is read from front to back"""


class TarSamples:
    """The samples of many tars as arrays, which worker processes share: 12 bytes a sample, and 16 a member.

    Args:
        files: the tars, in the order of their samples.
        wanted: which members hold what.
        readers: what the content of such a member says.

    A tar that cannot be read is left out, as is what a damaged one holds behind the damage.
    """

    mixed: str | None = None

    def __init__(self, files: Sequence[str], wanted: Wanted, readers: Readers) -> None:
        self.tars, self.files, self._readers = list(files), len(files), readers
        self._roots = [Path(file).parent for file in files]
        with ThreadPoolExecutor(8) as pool:  # most of the time goes into waiting for the disk
            found = list(pool.map(lambda file: _list(file, wanted), files))
        self.tar = np.repeat(np.arange(len(found), dtype=np.int32), [len(chosen.rows) for chosen, _, _ in found])
        self.at = np.concatenate([rows[chosen.lead, AT] for chosen, rows, _ in found])
        self.places = np.concatenate([_places(rows, chosen.rows) for chosen, rows, _ in found])
        self.left_out = _LeftOut(
            [Skipped(file, fault) for file, (_, _, faults) in zip(self.tars, found, strict=True) for fault in faults],
            self.tars,
            np.repeat(np.arange(len(found)), [len(chosen.left_out) for chosen, _, _ in found]),
            np.concatenate([rows[chosen.left_out, AT] for chosen, rows, _ in found]),
            [reason for chosen, _, _ in found for reason in chosen.reasons],
        )
        self.beside = sum((chosen.beside for chosen, _, _ in found), Counter())

    def __len__(self) -> int:
        return len(self.at)

    def name(self, index: int) -> str:
        return member_name(self.tars[self.tar[index]], int(self.at[index]))

    def root(self, index: int, column: str) -> Path:
        return self._roots[self.tar[index]]

    def cells(self, index: int, column: str) -> list[object]:
        there = ((self.places[index, slot].tolist(), read) for slot, read in self._readers[column])
        return [cell for (at, size), read in there if at >= 0 for cell in read(self._content(index, at, size))]

    def filled(self, column: str) -> Bool[ndarray, " n"]:
        return np.asarray((self.places[:, [slot for slot, _ in self._readers[column]], 0] >= 0).any(1))

    def _content(self, index: int, offset: int, size: int) -> bytes:
        file = self.tars[self.tar[index]]
        try:
            return read_bytes(file, offset, size)
        except OSError as error:  # of a whole tar, not of this sample
            raise DataLost(f"{file} was listed, and now cannot be read there: {error}") from None


def _places(members: Int64[ndarray, "n 5"], rows: Int64[ndarray, "p s"]) -> Int64[ndarray, "p s 2"]:
    """Find where the content of each sample's members begins and how large it is; -1 where it has none."""
    return np.where(rows[..., None] < 0, -1, members[rows][..., [OFFSET, SIZE]]) if len(members) else _none(rows)


def _none(rows: Int64[ndarray, "p s"]) -> Int64[ndarray, "p s 2"]:
    return np.full((*rows.shape, 2), -1, np.int64)


def _list(file: str, wanted: Wanted) -> tuple[Chosen, Int64[ndarray, "n 5"], list[str]]:
    try:
        found = index(Path(file))
    except (OSError, ValueError) as error:
        found = Index(np.empty((0, 5), np.int64), [], [str(error).removeprefix(f"{file} ")])
    return choose(found, wanted), found.rows, found.faults


def member_name(file: str, at: int) -> str:
    """Read the whole name of the member whose header begins at `at`."""
    try:
        with tarfile.open(file, "r:") as archive:
            return f"{file}: {read_header(archive, at).name}"
    except (OSError, tarfile.TarError):
        return f"{file}: at byte {at}"


@dataclass(frozen=True)
class _LeftOut(Sequence[Skipped]):
    """Faults of tars, and what is no pair: names are read when they are asked for, as there may be millions."""

    faults: list[Skipped]
    files: list[str]
    tar: Int64[ndarray, " n"]
    at: Int64[ndarray, " n"]
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.faults) + len(self.at)

    @overload
    def __getitem__(self, at: int) -> Skipped: ...
    @overload
    def __getitem__(self, at: slice) -> list[Skipped]: ...
    def __getitem__(self, at: int | slice) -> Skipped | list[Skipped]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if at < len(self.faults):
            return self.faults[at]
        at -= len(self.faults)
        where, reason = int(self.at[at]), self.reasons[at]  # an IndexError ends an iteration
        name = member_name(self.files[self.tar[at]], where)
        return Skipped(_apart(name, where, reason), reason)


def _apart(name: str, at: int, reason: str) -> str:
    """Tell what is there twice apart: bad samples are counted by their names."""
    return f"{name} (at byte {at})" if TWICE in reason else name


def read_tar(tar: str, wanted: Wanted, readers: Readers) -> Iterator[Raw | BadSample]:
    """Read the samples of a tar from front to back; the members of a sample must lie side by side."""
    try:
        with Path(tar).open("rb", buffering=0) as file:  # one handle: the system reads ahead of it
            for group in _groups(tar, os.fstat(file.fileno()).st_size):
                if isinstance(group, BadSample):
                    yield group
                elif group:
                    yield from _samples(tar, group, wanted, readers, file.fileno())
    except (OSError, ValueError) as error:
        yield BadSample(tar, str(error))


def _groups(tar: str, end: int) -> Iterator[list[Member] | BadSample]:
    """Collect the members that lie side by side and have one key; one that comes again later is a bad sample."""
    current, group = "", []
    seen: set[str] = set()
    for found in members(Path(tar)):
        if isinstance(found, NextArchive):  # its keys have nothing to do with those before
            yield group
            current, group = "", []
            seen.clear()
            continue
        if isinstance(found, Fault) or found.offset + found.size > end:
            yield group
            yield BadSample(tar, found.reason if isinstance(found, Fault) else DAMAGED)
            return
        if is_hidden(found.name):  # macOS's twins would stand between a picture and its caption
            continue
        key, _ = split_name(found.name)
        if key != current:
            yield group
            seen.add(current)
            current, group = key, []
            if key in seen:
                yield BadSample(f"{tar}: {found.name}", f"not {BESIDE}")
        if key not in seen:
            group.append(found)
    yield group


def _samples(tar: str, group: list[Member], wanted: Wanted, readers: Readers, handle: int) -> Iterator[Raw | BadSample]:
    """Read the samples of one key, of which there are several where dots belong to the names."""
    samples = _plain_sample(group, wanted.slots)
    if samples is None:
        grouping = Grouping()
        for place, member in enumerate(group):
            grouping.add(member.name, place, member.offset, member.size)
        found = grouping.index()
        chosen = choose(found, wanted)
        for row, reason in zip(chosen.left_out.tolist(), chosen.reasons, strict=True):
            member = group[found.rows[row, AT]]
            yield BadSample(_apart(f"{tar}: {member.name}", member.at, reason), reason.replace(APART, BESIDE))
        at = found.rows[:, AT]
        samples = [[group[at[row]] if row >= 0 else None for row in rows] for rows in chosen.rows.tolist()]
    root = Path(tar).parent
    for members_ in samples:
        name = f"{tar}: {next(member.name for member in members_ if member)}"
        try:
            contents = [_content(handle, member) if member else None for member in members_]
            yield Raw(name, _cells(contents, readers), root)
        except ValueError as error:
            yield BadSample(name, str(error))


def _cells(contents: Sequence[bytes | None], readers: Readers) -> dict[str, list[object]]:
    """Read the cells of every column from the members of a sample."""
    cells: dict[str, list[object]] = {}
    for column, places in readers.items():
        there = ((contents[slot], read) for slot, read in places)
        cells[column] = [cell for content, read in there if content is not None for cell in read(content)]
    return cells


def _plain_sample(group: list[Member], slots: Sequence[Slot]) -> list[list[Member | None]] | None:
    """Find the sample of a group that is one without a doubt; None where `choose` has to look."""
    found: list[list[Member]] = [[] for _ in slots]
    for member in group:
        _, ending = split_name(member.name)
        if "." in ending or member.size < 0:
            return None
        for place, slot in enumerate(slots):
            if ending in slot.endings:
                found[place].append(member)
    return [[members_[0] for members_ in found]] if all(len(members_) == 1 for members_ in found) else None


def _content(handle: int, member: Member) -> bytes:
    if member.size > MAX_BYTES:
        raise ValueError(f"{member.size} bytes are more than the {MAX_BYTES} that a sample may have")
    return os.pread(handle, member.size, member.offset)
