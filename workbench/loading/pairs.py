"""Image-text pairs with random access: what every source of them (tars, folders, tables) has in common.

A source lists its pairs as a `Table`; here are the choice of captions, safe decoding, bad samples and the held-out
split of many captions an image.

The trap: `sample` decodes in worker processes, so a table is read by position and keeps no file open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from workbench.errors import BadSample
from workbench.loading.bad_samples import refuse_too_many
from workbench.loading.decode import decode_image
from workbench.loading.feed import Feed
from workbench.loading.stream import stream
from workbench.types import Batch, Items, Modality, Sample, Skipped, Split

Pick = Literal["random", "first", "longest"]
"""which captions of an image a sample shows, when there are more than it may"""
Keys = str | tuple[str, ...]
"""a column of captions, or several"""


class Raw(NamedTuple):
    """A pair as it lies in its source."""

    name: str
    image: bytes
    captions: Sequence[Any]


class Table(Protocol):
    """Where pairs lie, in a fixed order. What it cannot read it reports as OSError or ValueError."""

    @property
    def left_out(self) -> Sequence[Skipped]:
        """what was found not to be a pair while listing"""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """what a person finds the pair by"""
        ...

    def image(self, index: int) -> bytes:
        """the picture, encoded"""
        ...

    def captions(self, index: int) -> Sequence[Any]:
        """as they are in the source: what is empty or not a text is dropped later"""
        ...


class Pairs(ABC):
    """A data set of pairs; a source says how to list them (`table`) and what is missing (`missing`).

    Args:
        path: what the training pairs are listed from.
        validation: what the held-out pairs are listed from.
        samples: training pairs, for plans made before the data is there.
        views: augmentations of each image.
        captions: captions of each image, at most.
        pick: which captions, when an image has more.
        max_pixels: larger pictures are bad samples.
        max_bad: bad samples that are allowed, as a share (below 1) or a number.
    """

    def __init__(
        self,
        path: Any,
        validation: Any,
        *,
        samples: int | None = None,
        views: int,
        captions: int,
        pick: Pick,
        max_pixels: int,
        max_bad: float,
    ) -> None:
        self.path, self.validation, self.samples = path, validation, samples
        self.views, self.captions, self.pick = views, captions, pick
        self.max_pixels, self.max_bad = max_pixels, max_bad
        self.modalities = {"image": Modality("image", count=views), "text": Modality("text", count=captions)}
        self.skipped: list[Skipped] = []
        """what was left out here, not in a batch; a run writes it down and clears it"""

    @abstractmethod
    def table(self, source: Any) -> Table:
        """The pairs of `path` or of `validation`. Raises ValueError with the remedy when they cannot be listed."""

    @abstractmethod
    def missing(self) -> str | None:
        """One line on what to point where, when the training data is not there."""

    def __len__(self) -> int:
        if self.samples and "train" not in vars(self) and self.missing():
            return self.samples
        return len(self.train)

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        """Endless batches from optimizer step `start` on."""
        self.train  # noqa: B018  # list the pairs here, not in every worker
        return feed.load(self, start)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Pair `index`, a pure function of both arguments. Raises BadSample."""
        image, captions = read_pair(self.train, index, self.max_pixels)
        return self.choose(image, captions, index, rng)

    def choose(self, image: Image.Image, captions: list[str], index: int, rng: np.random.Generator) -> Sample:
        """The sample of a pair: `views` times its image, at most `captions` of its captions."""
        if self.pick == "random":
            captions = [captions[i] for i in rng.permutation(len(captions))]
        elif self.pick == "longest":
            captions = sorted(captions, key=len, reverse=True)
        return Sample({"image": [image] * self.views, "text": captions[: self.captions]}, index)

    def split(self, name: str) -> Split:
        """`validation`: the held-out images and all their captions, linked by ids. Raises ValueError for others."""
        if name != "validation" or self.validation is None:
            raise ValueError(f"this data has no split '{name}': set data.validation to held-out pairs for 'validation'")
        return self._held_out

    @cached_property
    def train(self) -> Table:
        return self._listed(self.path)

    @cached_property
    def _held_out(self) -> Split:
        """Bad samples are found by decoding everything once, so that no evaluation meets one."""
        table = self._listed(self.validation)
        rows: list[int] = []
        texts: list[tuple[str, int]] = []
        bad: list[Skipped] = []
        for index in range(len(table)):
            try:
                _, captions = read_pair(table, index, self.max_pixels)
            except BadSample as error:
                bad.append(Skipped(error.name, error.reason))
                continue
            texts += [(caption, len(rows)) for caption in captions]
            rows.append(index)
        refuse_too_many(bad, len(table), self.max_bad)
        if not rows:
            raise ValueError(f"data.validation holds no usable pair; the first one is {bad[0]}")
        self.skipped += bad
        images = Items(_Images(table, rows, self.max_pixels), torch.arange(len(rows)))
        return Split({"image": images, "text": Items([t for t, _ in texts], torch.tensor([i for _, i in texts]))})

    def _listed(self, source: Any) -> Table:
        table = self.table(source)
        refuse_too_many(table.left_out, len(table) + len(table.left_out), self.max_bad)
        self.skipped += table.left_out
        return table


class StreamedPairs(Pairs):
    """Pairs that may also be read in parts, from front to back, without random access.

    Args:
        streaming: do so.
        buffer: raw pairs that wait to be shuffled, in each reader.
        more: as of Pairs.
    """

    def __init__(self, path: Any, validation: Any, *, streaming: bool, buffer: int, **more: Any) -> None:
        if streaming and not more["samples"]:
            raise ValueError("streaming does not count the pairs: set data.samples to their number, about")
        super().__init__(path, validation, **more)
        self.streaming, self.buffer = streaming, buffer

    @abstractmethod
    def parts(self) -> int:
        """How many parts there are to stream. Raises ValueError with the remedy when they are not there."""

    @abstractmethod
    def read(self, part: int) -> Iterator[Raw | BadSample]:
        """The pairs of a part, still encoded."""

    def __len__(self) -> int:
        return self.samples if self.streaming and self.samples else super().__len__()

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        """Endless batches from optimizer step `start` on, or from about there when they are streamed."""
        if self.streaming:
            return stream(self, feed, start, self.parts(), self.buffer)
        return super().batches(start, feed)

    def decode(self, raw: Raw, id: int, rng: np.random.Generator) -> Sample:
        """A pair that was streamed. Raises BadSample."""
        try:
            image, captions = decode_image(raw.image, self.max_pixels), clean(raw.captions)
        except ValueError as error:
            raise BadSample(raw.name, str(error)) from None
        return self.choose(image, captions, id, rng)


def read_pair(table: Table, index: int, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """The image in RGB and the captions that say something. Raises BadSample."""
    try:
        return decode_image(table.image(index), max_pixels), clean(table.captions(index))
    except (OSError, ValueError) as error:
        raise BadSample(table.name(index), str(error)) from None  # only now: a name may have to be read, too


def clean(captions: Sequence[Any]) -> list[str]:
    """Those that say something. Raises ValueError when none does."""
    texts = [text.strip() for text in captions if isinstance(text, str)]
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError("no caption")
    return texts


@dataclass(frozen=True)
class _Images(Sequence[Image.Image]):
    """Pictures of some rows of a table, decoded on access."""

    table: Table
    rows: list[int]
    max_pixels: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return _Images(self.table, self.rows[at], self.max_pixels)
        return decode_image(self.table.image(self.rows[at]), self.max_pixels)
