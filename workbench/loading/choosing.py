"""Which members of a sample hold its fields, and what is no sample.

The trap: what is no sample is easily lost. So `choose` accounts for every key that has a member which a field is read
from: it is a sample, or left out with a reason, once for each copy; members that nobody asked for are counted beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from workbench.loading.fields import AudioField, Fields, FieldSection, ImageField, TextField, VectorField
from workbench.loading.grouping import ENDING, LINK, SAMPLE, SIZE, SPARSE, SPECIAL, Index
from workbench.loading.sounds import ENDINGS as SOUNDS
from workbench.loading.table import ENOUGH

PICTURES = (
    *(
        "jpg",
        "jpeg",
        "jfif",
        "jpe",
        "jfi",
        "jif",
        "pjpeg",
        "pjp",
        "mpo",
        "png",
        "apng",
        "webp",
        "gif",
        "bmp",
        "dib",
        "tif",
        "tiff",
    ),
    *("jp2", "j2k", "jpx", "jpf", "j2c", "jpc", "ppm", "pgm", "pbm", "pnm", "avif", "avifs"),
)
"""endings of pictures that are decoded"""


def is_picture(name: str) -> bool:
    """Say whether a file ends as a picture that can be read."""
    return name.rpartition(".")[2].strip().lower() in PICTURES


UNREAD = {
    "heic",
    "heif",
    "svg",
    "svgz",
    "pdf",
    "eps",
    "ps",
    "psd",
    "xcf",
    "ico",
    "raw",
    "dng",
    "cr2",
    "nef",
    "arw",
    "jxl",
    "tga",
    "pcx",
    "qoi",
    "exr",
    "hdr",
    "dds",
    "icns",
}
"""endings of pictures that are not"""
TWICE = "which belongs to which cannot be told"
OTHERS = {"txt", "json", "npy", "npz", "pth", "pt", "pkl", "cls", "xml", "html", "wav", "mp3", "flac", "mp4"}
"""endings of what is no picture for certain"""
FLAWS = {
    LINK: "is a link: pack the file itself, as with tar --dereference --hard-dereference",
    SPARSE: "is stored as a sparse file: pack it without tar's --sparse",
    SPECIAL: "is no regular file",
}


USUAL: Mapping[str, tuple[str, ...]] = {
    "image": PICTURES,
    "text": ("txt",),
    "audio": SOUNDS,
    "vector": ("npy",),
    "sequence": ("npy",),
}
"""{kind: endings of the members that a field is read from which does not say it}"""


@dataclass(frozen=True)
class Slot:
    """A member of a sample that columns are read from.

    Args:
        endings: what its name may end in.
        ordered: the first of them that a sample has is taken; else it may have but one.
        noun: what a message calls it.
    """

    endings: tuple[str, ...]
    ordered: bool
    noun: str


@dataclass(frozen=True)
class Wanted:
    """The members that columns are read from."""

    slots: tuple[Slot, ...]
    columns: Mapping[str, tuple[tuple[int, str | None], ...]]
    """{column: for each of its cells the slot, and where it stands in that member if it is JSON}"""
    fields: Mapping[str, tuple[int, ...]]
    """{field: its slots}: those without labels and ids, which make no sample"""

    @staticmethod
    def parse(columns: Mapping[str, Sequence[str]], fields: Fields) -> Wanted:
        """Read `jpg`, `.jpg`, `jpg;png`, `cls`, `json:caption`, `.syn.json:film.plot`, as recipes say it.

        Several endings of a picture, a sound or a sequence are other names of one member, in the order of preference;
        of texts and vectors all are read.
        """
        slots: dict[tuple[tuple[str, ...], bool], Slot] = {}
        places: dict[str, list[tuple[tuple[tuple[str, ...], bool], str | None]]] = {}
        for column, keys in columns.items():
            field = fields.get(column)
            places[column] = []
            for endings, ordered, key in _read_keys(keys, field):
                slots.setdefault((endings, ordered), Slot(endings, ordered, _noun(field, endings)))
                places[column].append(((endings, ordered), key))
        order = list(slots)
        named = {ending for slot in slots.values() if _is_explicit(slot) for ending in slot.endings}
        kept = tuple(
            slot if _is_explicit(slot) else Slot(tuple(e for e in slot.endings if e not in named), False, slot.noun)
            for slot in slots.values()
        )
        at = {column: tuple((order.index(slot), key) for slot, key in each) for column, each in places.items()}
        return Wanted(kept, at, {name: tuple({slot: None for slot, _ in at[name]}) for name in fields})


def _read_keys(keys: Sequence[str], field: FieldSection | None) -> Iterator[tuple[tuple[str, ...], bool, str | None]]:
    """Read (endings, whether they are ordered, the place in its JSON) of each member that a column is read from."""
    if tuple(keys) in (PICTURES, SOUNDS):
        yield tuple(keys), False, None
        return
    specs = [part.strip().lstrip(".").partition(":") for key in keys for part in key.split(";")]
    if isinstance(field, TextField | VectorField) or any(key for _, _, key in specs):
        for ending, _, key in specs:
            yield (ending.lower(),), True, key or None
    else:
        yield tuple(ending.lower() for ending, _, _ in specs), True, None


def _is_explicit(slot: Slot) -> bool:
    return slot.endings not in (PICTURES, SOUNDS)


def _noun(field: FieldSection | None, endings: tuple[str, ...]) -> str:
    if isinstance(field, ImageField):
        return "picture"
    return "sound" if isinstance(field, AudioField) else f".{endings[0]}"


@dataclass(frozen=True)
class Chosen:
    """The samples of an index, and all that is none."""

    rows: Int64[ndarray, "p s"]
    """the row of each sample's member in each slot, -1 where it has none"""
    left_out: Int64[ndarray, " q"]
    """a row for each thing that is no sample: what it is named by"""
    reasons: list[str]
    beside: Counter[str]
    """{members that nobody asked for, and what is no member: how many}"""

    @property
    def lead(self) -> Int64[ndarray, " p"]:
        """Find the first member of each sample, which it is named by."""
        if not len(self.rows):
            return np.empty(0, np.int64)
        return self.rows[np.arange(len(self.rows)), (self.rows >= 0).argmax(1)]


def choose(index: Index, wanted: Wanted) -> Chosen:
    """Tell the samples of an index, in their order, from what is none."""
    members = _Members(index, wanted)
    left_out, reasons = [], []
    for rows, why in (*members.lonely(), *members.ambiguous(), *members.dotted()):
        left_out.append(rows)
        reasons += [why] * len(rows)
    lost = np.concatenate(left_out).astype(np.int64) if left_out else np.empty(0, np.int64)
    used = members.is_wanted.copy()
    used[lost] = True
    beside = Counter(index.beside)
    for ending, number in zip(*np.unique(index.rows[~used, ENDING], return_counts=True), strict=True):
        beside[f".{index.endings[ending]}"] += int(number)
    return Chosen(members.good_rows(), lost, reasons, beside)


class _Members:
    """The members of an index that fields are read from, counted by sample."""

    def __init__(self, index: Index, wanted: Wanted) -> None:
        self.index, self.wanted = index, wanted
        self.sample, self.size = index.rows[:, SAMPLE], index.rows[:, SIZE]
        self.samples = int(self.sample.max(initial=-1)) + 1
        self.masks = [self._mask(slot) for slot in wanted.slots]
        self.is_wanted = np.logical_or.reduce(self.masks)
        self.counts = np.stack([self._count(mask) for mask in self.masks])  # slots x samples
        fields = [self.counts[list(slots)].max(0) > 0 for slots in wanted.fields.values()]
        self.fields = np.sum(fields, axis=0)
        flawed = self._count(self.is_wanted & (self.size < 0)) > 0
        plain = (self.counts.max(0) <= 1) & ~flawed
        self.good = plain & (self.fields >= ENOUGH)
        self.simple = plain & (self.fields > 0) & ~self.good
        of_fields = [self.masks[slot] for slots in wanted.fields.values() for slot in slots]
        self.is_field = np.logical_or.reduce(of_fields)

    def _mask(self, slot: Slot) -> Bool[ndarray, " n"]:
        if not slot.ordered:
            return self._with(slot.endings)
        mask = np.zeros(len(self.sample), bool)
        for ending in slot.endings:  # a later one only where a sample has none of those before
            mask |= self._with([ending]) & (self._count(mask) == 0)[self.sample]
        return mask

    def _with(self, endings: Sequence[str]) -> Bool[ndarray, " n"]:
        return np.array([ending in endings for ending in self.index.endings], bool)[self.index.rows[:, ENDING]]

    def _count(self, mask: Bool[ndarray, " n"]) -> Int64[ndarray, " s"]:
        return np.bincount(self.sample[mask], minlength=self.samples)

    def good_rows(self) -> Int64[ndarray, "p s"]:
        """Find the row of each slot of each good sample."""
        rows = np.full((self.samples, len(self.masks)), -1, np.int64)
        for slot, mask in enumerate(self.masks):
            rows[self.sample[mask], slot] = np.flatnonzero(mask)
        return rows[self.good]

    def lonely(self) -> Iterator[tuple[Int64[ndarray, " q"], str]]:
        """Find samples of one field alone, by the slot that they have: there may be millions."""
        first = (self.counts > 0).argmax(0) if self.samples else np.empty(0, np.int64)
        for place in dict.fromkeys(slot for slots in self.wanted.fields.values() for slot in slots):
            mine = (self.simple & (first == place))[self.sample]
            others = [self.wanted.slots[slots[0]].noun for slots in self.wanted.fields.values() if place not in slots]
            hint = self._hint(mine) if "picture" in others else ""
            said = " or ".join(dict.fromkeys(others)) or "second field"
            yield np.flatnonzero(self.masks[place] & mine), f"no {said} of the same name{hint}"

    def _hint(self, mine: Bool[ndarray, " n"]) -> str:
        """Guess by what else is there where the pictures are."""
        others = self.index.rows[mine & ~self.is_wanted, ENDING]
        names = [self.index.endings[ending] for ending, _ in Counter(others.tolist()).most_common()]
        for name in names:
            if name in UNREAD:
                return f", but .{name}, which is not read: convert it to .jpg or .png"
            if name not in OTHERS and "." not in name:
                field = self._field_of("picture")
                return f" (there is .{name}: if that is the picture, set data.fields.{field}.from={name})"
        return ""

    def _field_of(self, noun: str) -> str:
        return next(name for name, slots in self.wanted.fields.items() if self.wanted.slots[slots[0]].noun == noun)

    def ambiguous(self) -> Iterator[tuple[Int64[ndarray, " q"], str]]:
        """Find samples with too many members for a slot, or with such as cannot be read, one by one."""
        lost = ~self.good & ~self.simple & (self.fields > 0)
        rows = np.flatnonzero(self.is_wanted & lost[self.sample])
        rows = rows[np.argsort(self.sample[rows], kind="stable")]
        if not len(rows):
            return
        for members in np.split(rows, np.flatnonzero(np.diff(self.sample[rows])) + 1):
            endings = [self.index.endings[ending] for ending in self.index.rows[members, ENDING]]
            often, copies = Counter(endings).most_common(1)[0]
            named = members[[ending == often for ending in endings]]
            yield named, self._reason(members, often, copies)

    def _reason(self, members: Int64[ndarray, " m"], often: str, copies: int) -> str:
        if copies > 1:
            return f"its .{often} is there {copies} times: {TWICE}"
        for slot, mask in zip(self.wanted.slots, self.masks, strict=True):
            endings = [self.index.endings[ending] for ending in self.index.rows[members[mask[members]], ENDING]]
            if len(endings) > 1:
                there = ", ".join(f".{ending}" for ending in endings)
                field = self._field_of(slot.noun)
                return (
                    f"{there} are {slot.noun}s of one name: say which it is with data.fields.{field}.from={endings[0]}"
                )
        flaw = next(row for row in members if self.size[row] < 0)
        return f"its .{self.index.endings[self.index.rows[flaw, ENDING]]} {FLAWS[int(self.size[flaw])]}"

    def dotted(self) -> Iterator[tuple[Int64[ndarray, " q"], str]]:
        """Find samples whose name has a dot, beside one that has the name before it.

        `a.v2.jpg` and `a.v2.txt` beside `a.jpg` may be two members of `a`, or a sample.
        """
        lead, *rest = self.wanted.slots
        wanted = {ending for slot in self.wanted.slots for ending in slot.endings}
        partners = [ending for slot in rest for ending in slot.endings]
        for ending in self.index.endings:
            prefix, _, last = ending.rpartition(".")
            if prefix and last in lead.endings and ending not in wanted:
                both = self._count(self._with([f"{prefix}.{partner}" for partner in partners])) > 0
                rows = np.flatnonzero(self._with([ending]) & (both & (self.counts.sum(0) > 0))[self.sample])
                yield rows, f"a field .{ending} of a sample, or a pair of its own: a key ends at the first dot"
