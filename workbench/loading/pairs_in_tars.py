"""Pairs in webdataset tars: read by the offsets that an index remembers, or from front to back.

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
from jaxtyping import Int64
from numpy import ndarray

from workbench.errors import BadSample, DataLost
from workbench.loading.captions import CaptionReader
from workbench.loading.choosing import TWICE, Chosen, Wanted, choose
from workbench.loading.grouping import AT, OFFSET, SIZE, Grouping, Index, split_name
from workbench.loading.paths import MAX_BYTES, is_hidden, read_bytes
from workbench.loading.table import Raw
from workbench.loading.tar_index import DAMAGED, Fault, Member, NextArchive, index, members, read_header
from workbench.types import Skipped

APART = "of the same name"
BESIDE = (
    "beside it: streaming needs the members of a sample side by side (tar --sort=name); data.streaming=false does not"
)
"""what stands for APART in a reason, when a tar is read from front to back"""


class TarPairs:
    """The pairs of many tars as arrays: 44 bytes a pair, which worker processes share.

    Args:
        files: the tars, in the order of their pairs.
        wanted: which members are pictures and which captions.
        read_captions: what the content of such a member says.

    A tar that cannot be read is left out, as is what a damaged one holds behind the damage.
    """

    mixed: str | None = None

    def __init__(self, files: Sequence[str], wanted: Wanted, read_captions: CaptionReader) -> None:
        self.tars, self.files, self._read_captions = list(files), len(files), read_captions
        with ThreadPoolExecutor(8) as pool:  # most of the time goes into waiting for the disk
            found = list(pool.map(lambda file: _list(file, wanted), files))
        pairs = [len(chosen.images) for chosen, _, _ in found]
        self.tar = np.repeat(np.arange(len(found), dtype=np.int32), pairs)
        places = [rows[chosen.images][:, [AT, OFFSET, SIZE]] for chosen, rows, _ in found]
        texts = [rows[chosen.texts][:, [OFFSET, SIZE]] for chosen, rows, _ in found]
        self.rows = np.concatenate([np.concatenate(places), np.concatenate(texts)], axis=1)
        self.left_out = _LeftOut(
            [Skipped(file, fault) for file, (_, _, faults) in zip(self.tars, found, strict=True) for fault in faults],
            self.tars,
            np.repeat(np.arange(len(found)), [len(chosen.left_out) for chosen, _, _ in found]),
            np.concatenate([rows[chosen.left_out, AT] for chosen, rows, _ in found]),
            [reason for chosen, _, _ in found for reason in chosen.reasons],
        )
        self.beside = sum((chosen.beside for chosen, _, _ in found), Counter())

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return member_name(self.tars[self.tar[index]], int(self.rows[index, 0]))

    def image(self, index: int) -> bytes:
        return self._read(index, 1)

    def captions(self, index: int) -> Sequence[object]:
        return self._read_captions(self._read(index, 3))

    def _read(self, index: int, column: int) -> bytes:
        offset, size = self.rows[index, column : column + 2].tolist()
        file = self.tars[self.tar[index]]
        try:
            return read_bytes(file, offset, size)
        except OSError as error:  # of a whole tar, not of this sample
            raise DataLost(f"{file} was listed, and now cannot be read there: {error}") from None


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


def read_tar(tar: str, wanted: Wanted, read_captions: CaptionReader) -> Iterator[Raw | BadSample]:
    """Read the pairs of a tar from front to back; the members of a pair must lie side by side."""
    try:
        with Path(tar).open("rb", buffering=0) as file:  # one handle: the system reads ahead of it
            for group in _groups(tar, os.fstat(file.fileno()).st_size):
                if isinstance(group, BadSample):
                    yield group
                elif group:
                    yield from _pairs(tar, group, wanted, read_captions, file.fileno())
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


def _pairs(
    tar: str, group: list[Member], wanted: Wanted, read_captions: CaptionReader, handle: int
) -> Iterator[Raw | BadSample]:
    """Read the pairs among the members of one key, of which there are several where dots belong to the names."""
    pairs = _plain_pair(group, wanted)
    if pairs is None:
        grouping = Grouping()
        for place, member in enumerate(group):
            grouping.add(member.name, place, member.offset, member.size)
        found = grouping.index()
        chosen = choose(found, wanted)
        for row, reason in zip(chosen.left_out.tolist(), chosen.reasons, strict=True):
            member = group[found.rows[row, AT]]
            yield BadSample(_apart(f"{tar}: {member.name}", member.at, reason), reason.replace(APART, BESIDE))
        at = found.rows[:, AT]
        pairs = [(group[at[i]], group[at[t]]) for i, t in zip(chosen.images, chosen.texts, strict=True)]
    for image, text in pairs:
        name = f"{tar}: {image.name}"
        try:
            yield Raw(name, _content(handle, image), read_captions(_content(handle, text)))
        except ValueError as error:
            yield BadSample(name, str(error))


def _plain_pair(group: list[Member], wanted: Wanted) -> list[tuple[Member, Member]] | None:
    """Find the pair of a group that is one without a doubt; None where `choose` has to look."""
    images, texts = [], []
    for member in group:
        _, ending = split_name(member.name)
        if "." in ending or member.size < 0:
            return None
        images += [member] if ending in wanted.images else []
        texts += [member] if ending == wanted.text else []
    return [(images[0], texts[0])] if len(images) == len(texts) == 1 else None


def _content(handle: int, member: Member) -> bytes:
    if member.size > MAX_BYTES:
        raise ValueError(f"{member.size} bytes are more than the {MAX_BYTES} that a sample may have")
    return os.pread(handle, member.size, member.offset)
