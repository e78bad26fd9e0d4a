"""Which field of a sample is its picture and which its captions, and what is no pair.

The trap: what is no pair is easily lost. So `choose` accounts for every key that has a picture or a text: it is a pair,
or left out with a reason, once for each copy; fields that nobody asked for are counted beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from workbench.loading.grouping import ENDING, LINK, SAMPLE, SIZE, SPARSE, SPECIAL, Index
from workbench.loading.paths import as_tuple

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


@dataclass(frozen=True)
class Wanted:
    """The endings of pictures and of captions.

    Args:
        images: endings of pictures.
        ordered: the first of them that a sample has is its picture; else it may have but one.
        text: the ending of the captions.
        key: where they stand in it, if it is JSON; None: a caption a line.
    """

    images: tuple[str, ...] = PICTURES
    ordered: bool = False
    text: str = "txt"
    key: str | None = None

    @staticmethod
    def parse(image_key: str | Sequence[str] | None, caption_key: str | None) -> Wanted:
        """Read `jpg`, `[jpg, png]` or `jpg;png`, and `caption`, `.cap` or `.syn.json:caption`, as recipes say it."""
        images = tuple(part.lstrip(".").lower() for key in as_tuple(image_key or ()) for part in key.split(";"))
        text, key = "txt", None
        if caption_key and caption_key.startswith("."):
            text, _, key = caption_key[1:].partition(":")
        elif caption_key:
            text, key = "json", caption_key
        return Wanted(images or PICTURES, bool(images), text.lower(), key or None)


@dataclass(frozen=True)
class Chosen:
    """The pairs of an index, and all that is none."""

    images: Int64[ndarray, " p"]
    """the row of each pair's picture"""
    texts: Int64[ndarray, " p"]
    """the row of its captions"""
    left_out: Int64[ndarray, " q"]
    """a row for each thing that is no pair: what it is named by"""
    reasons: list[str]
    beside: Counter[str]
    """{fields that nobody asked for, and what is no field: how many}"""


def choose(index: Index, wanted: Wanted) -> Chosen:
    """Tell the pairs of an index, in their order, from what is none."""
    fields = _Fields(index, wanted)
    left_out, reasons = [], []
    for rows, why in (fields.lonely_images(), fields.lonely_texts(), *fields.ambiguous(), *fields.dotted()):
        left_out.append(rows)
        reasons += [why] * len(rows)
    lost = np.concatenate(left_out).astype(np.int64)
    used = fields.is_image | fields.is_text
    used[lost] = True
    beside = Counter(index.beside)
    for ending, number in zip(*np.unique(index.rows[~used, ENDING], return_counts=True), strict=True):
        beside[f".{index.endings[ending]}"] += int(number)
    images, texts = (fields.rows_of(mask) for mask in (fields.is_image, fields.is_text))
    return Chosen(images, texts, lost, reasons, beside)


class _Fields:
    """The pictures and captions among the members of an index, counted by sample."""

    def __init__(self, index: Index, wanted: Wanted) -> None:
        self.index, self.wanted = index, wanted
        self.sample, self.size = index.rows[:, SAMPLE], index.rows[:, SIZE]
        self.samples = int(self.sample.max(initial=-1)) + 1
        self.is_text = self._with([wanted.text])
        if wanted.ordered:
            self.is_image = np.zeros(len(self.sample), bool)
            for ending in wanted.images:  # a later one only where a sample has none of those before
                self.is_image |= self._with([ending]) & (self._count(self.is_image) == 0)[self.sample]
        else:
            self.is_image = self._with(wanted.images)
        self.images, self.texts = self._count(self.is_image), self._count(self.is_text)
        flawed = self._count((self.is_image | self.is_text) & (self.size < 0)) > 0
        self.good = (self.images == 1) & (self.texts == 1) & ~flawed
        self.simple = (self.images + self.texts == 1) & ~flawed

    def _with(self, endings: Sequence[str]) -> Bool[ndarray, " n"]:
        return np.array([ending in endings for ending in self.index.endings], bool)[self.index.rows[:, ENDING]]

    def _count(self, mask: Bool[ndarray, " n"]) -> Int64[ndarray, " s"]:
        return np.bincount(self.sample[mask], minlength=self.samples)

    def rows_of(self, mask: Bool[ndarray, " n"]) -> Int64[ndarray, " p"]:
        """Find the row of this kind of each good sample."""
        row = np.zeros(self.samples, np.int64)
        row[self.sample[mask]] = np.flatnonzero(mask)
        return row[self.good]

    def lonely_images(self) -> tuple[Int64[ndarray, " q"], str]:
        """Find pictures without captions: there may be millions."""
        rows = np.flatnonzero(self.is_image & (self.simple & (self.images == 1))[self.sample])
        return rows, f"no .{self.wanted.text} of the same name"

    def lonely_texts(self) -> tuple[Int64[ndarray, " q"], str]:
        """Find captions without a picture, and guess by what else is there where the pictures are."""
        mine = (self.simple & (self.texts == 1))[self.sample]
        others = self.index.rows[mine & ~self.is_text, ENDING]
        names = [self.index.endings[ending] for ending, _ in Counter(others.tolist()).most_common()]
        hint = ""
        for name in names:
            if name in UNREAD:
                hint = f", but .{name}, which is not read: convert it to .jpg or .png"
                break
            if name not in OTHERS and "." not in name:
                hint = f" (there is .{name}: if that is the picture, set data.image_key={name})"
                break
        return np.flatnonzero(self.is_text & mine), f"no picture of the same name{hint}"

    def ambiguous(self) -> Iterator[tuple[Int64[ndarray, " q"], str]]:
        """Find samples with too many pictures or captions, or with such as cannot be read, one by one."""
        lost = ~self.good & ~self.simple & (self.images + self.texts > 0)
        rows = np.flatnonzero((self.is_image | self.is_text) & lost[self.sample])
        rows = rows[np.argsort(self.sample[rows], kind="stable")]
        if not len(rows):
            return
        for members in np.split(rows, np.flatnonzero(np.diff(self.sample[rows])) + 1):
            endings = [self.index.endings[ending] for ending in self.index.rows[members, ENDING]]
            often, copies = Counter(endings).most_common(1)[0]
            named = members[[ending == often for ending in endings]]
            yield named, self._reason(members, endings, often, copies)

    def _reason(self, members: Int64[ndarray, " m"], endings: list[str], often: str, copies: int) -> str:
        if copies > 1:
            return f"its .{often} is there {copies} times: {TWICE}"
        if len(images := [ending for ending in endings if ending != self.wanted.text]) > 1:
            there = ", ".join(f".{ending}" for ending in images)
            return f"{there} are pictures of one name: say which it is with data.image_key={images[0]}"
        flaw = next(row for row in members if self.size[row] < 0)
        return f"its .{self.index.endings[self.index.rows[flaw, ENDING]]} {FLAWS[int(self.size[flaw])]}"

    def dotted(self) -> Iterator[tuple[Int64[ndarray, " q"], str]]:
        """Find pictures with captions under a name with a dot, beside a sample that has the name before it.

        `a.v2.jpg` and `a.v2.txt` beside `a.jpg` may be two fields of `a`, or a pair.
        """
        for ending in self.index.endings:
            prefix, _, last = ending.rpartition(".")
            if prefix and last in self.wanted.images:
                both = self._count(self._with([f"{prefix}.{self.wanted.text}"])) > 0
                rows = np.flatnonzero(self._with([ending]) & (both & (self.images + self.texts > 0))[self.sample])
                yield rows, f"a field .{ending} of a sample, or a pair of its own: a key ends at the first dot"
