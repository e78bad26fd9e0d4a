"""Image-text pairs with random access: what every source of them (tars, folders, tables) has in common.

A source lists its pairs as a `Table`; the settings that all sources share are declared and documented here, once, and
here are the choice of captions, the limit on bad samples and the held-out split of many captions an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt

from workbench.errors import BadSample
from workbench.loading.bad_samples import MAX_BAD, MaxBad, refuse_too_many
from workbench.loading.captions import clean
from workbench.loading.decode import MAX_PIXELS, PixelLimit, decode_image
from workbench.loading.feed import Feed
from workbench.loading.stream import stream
from workbench.loading.table import Pictures, Raw, Table, read_pair
from workbench.types import Batch, Items, Modality, Sample, Skipped, Split

Pick = Literal["random", "first", "longest"]
"""which captions of an image a sample shows, when there are more than it may"""
Keys = str | tuple[str, ...]
"""a column of captions, or several"""
Source = TypeVar("Source")
"""what a source lists its pairs from: patterns of files, or the name of a split"""


class Pairs(ABC, Generic[Source]):
    """A data set of pairs; a source says how to list them (`table`) and what of them is not there (`absent`).

    `path` is what the training pairs are listed from, `validation` what the held-out ones are.

    Args:
        samples: pairs to train on, for plans made before the data is there; counted when it is.
        views: augmentations of each image.
        captions: captions of each image, at most; missing ones are marked invalid.
        pick: which captions, when an image has more: `random` ones without repetition, the `first`, or the `longest`.
        max_pixels: larger images are bad samples.
        max_bad: bad samples before the run fails: a share of those seen below 1, a number from 1 on.
    """

    def __init__(
        self,
        path: Source,
        validation: Source | None,
        *,
        samples: PositiveInt | None = None,
        views: PositiveInt = 1,
        captions: PositiveInt = 1,
        pick: Pick = "random",
        max_pixels: PixelLimit = MAX_PIXELS,
        max_bad: MaxBad = MAX_BAD,
    ) -> None:
        self.path, self.validation, self.samples = path, validation, samples
        self.views, self.captions, self.pick = views, captions, pick
        self.max_pixels, self.max_bad = max_pixels, max_bad
        self.modalities = {"image": Modality("image", count=views), "text": Modality("text", count=captions)}
        self.skipped: list[Skipped] = []
        """what was left out here, not in a batch; a run writes it down and clears it"""

    @abstractmethod
    def table(self, source: Source) -> Table:
        """List the pairs of `path` or of `validation`. Raises ValueError with the remedy when they cannot be listed."""

    @abstractmethod
    def absent(self, source: Source) -> str | None:
        """Say in one line what of `path` or of `validation` is not there, and how to point to it; None if all is."""

    def missing(self) -> str | None:
        """Say in one line what to point where, when the training data is not there."""
        return self.absent(self.path)

    def missing_held_out(self) -> str | None:
        """Say in one line what to point where, when there is to be held-out data, and it is not there."""
        return None if self.validation is None else self.absent(self.validation)

    def key_of(self, source: Source) -> str:
        """Name the key of the recipe that a source was written under, for messages that say what to change."""
        return "data.path" if source == self.path else "data.validation"

    def __len__(self) -> int:
        if self.samples and "train" not in vars(self) and self.missing():
            return self.samples
        return len(self.train)

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        """Give endless batches from optimizer step `start` on."""
        self.train  # noqa: B018  # list the pairs here, not in every worker
        return feed.load(self, start)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Read pair `index`, a pure function of both arguments. Raises BadSample."""
        image, captions = read_pair(self.train, index, self.max_pixels)
        return self.choose(image, captions, index, rng)

    def choose(self, image: Image.Image, captions: list[str], index: int, rng: np.random.Generator) -> Sample:
        """Make the sample of a pair: `views` times its image, at most `captions` of its captions."""
        if self.pick == "random":
            captions = [captions[i] for i in rng.permutation(len(captions))]
        elif self.pick == "longest":
            captions = sorted(captions, key=len, reverse=True)
        return Sample({"image": [image] * self.views, "text": captions[: self.captions]}, index)

    def split(self, name: str) -> Split:
        """Give `validation`: held-out images and all their captions, linked by ids. Raises ValueError for others."""
        self.check_split(name)
        return self._held_out

    def check_split(self, name: str) -> None:
        if self.validation is None:
            raise ValueError(f"this data has no split '{name}': set data.validation to held-out pairs for 'validation'")
        if name != "validation":
            raise ValueError(f"this data has no split '{name}', only 'validation', the pairs of data.validation")

    @cached_property
    def train(self) -> Table:
        return self._listed(self.path)

    @cached_property
    def _held_out(self) -> Split:
        """Find bad samples by decoding everything once, so that no evaluation meets one."""
        assert self.validation is not None
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
        images = Items(Pictures(table, rows, self.max_pixels), torch.arange(len(rows)))
        return Split({"image": images, "text": Items([t for t, _ in texts], torch.tensor([i for _, i in texts]))})

    def _listed(self, source: Source) -> Table:
        table = self.table(source)
        if table.mixed:
            raise ValueError(table.mixed)
        refuse_too_many(table.left_out, len(table) + len(table.left_out), self.max_bad)
        self.skipped += table.left_out
        return table


class StreamedPairs(Pairs[Source]):
    """Pairs that may also be read in parts, from front to back, without random access.

    Args:
        samples: pairs to train on, for streaming, and for plans made before the data is there; else counted.
        streaming: read whole files from front to back instead of by random access.
        buffer: pairs that wait to be shuffled in every worker, when streaming; more mix the files better.
    """

    def __init__(
        self,
        path: Source,
        validation: Source | None,
        *,
        streaming: bool = False,
        buffer: PositiveInt = 2000,
        **more: Any,
    ) -> None:
        super().__init__(path, validation, **more)
        if streaming and not self.samples:
            raise ValueError("streaming does not count the pairs: set data.samples to their number, about")
        self.streaming, self.buffer = streaming, buffer

    @abstractmethod
    def parts(self) -> int:
        """Count the parts there are to stream. Raises ValueError with the remedy when they are not there."""

    @abstractmethod
    def read(self, part: int) -> Iterator[Raw | BadSample]:
        """Read the pairs of a part, still encoded."""

    def __len__(self) -> int:
        return self.samples if self.streaming and self.samples else super().__len__()

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        """Give endless batches from optimizer step `start` on, or from about there when they are streamed."""
        if self.streaming:
            return stream(self, feed, start, self.parts(), self.buffer)
        return super().batches(start, feed)

    def decode(self, raw: Raw, id: int, rng: np.random.Generator) -> Sample:
        """Decode a pair that was streamed. Raises BadSample."""
        try:
            image, captions = decode_image(raw.image, self.max_pixels), clean(raw.captions)
        except ValueError as error:
            raise BadSample(raw.name, str(error)) from None
        return self.choose(image, captions, id, rng)
