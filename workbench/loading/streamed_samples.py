"""Samples that can also be read from front to back, for disks that are slow at random access."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt

from workbench.errors import BadSample
from workbench.loading.feed import Feed
from workbench.loading.samples import Samples, Source
from workbench.loading.shares import identify
from workbench.loading.shuffled import shuffled_names
from workbench.loading.stream import stream
from workbench.loading.table import ID, Raw, decode_sample
from workbench.types import Batch, Sample


class StreamedSamples(Samples[Source]):
    """Samples that may also be read in parts, from front to back, without random access.

    Args:
        samples: samples to train on, for streaming, and for plans made before the data is there; else counted.
        streaming: read whole files from front to back instead of by random access.
        buffer: samples that wait to be shuffled in every worker, when streaming; more mix the files better.
    """

    def __init__(self, path: Source, *, streaming: bool = False, buffer: PositiveInt = 2000, **more: Any) -> None:
        super().__init__(path, **more)
        if streaming and not self.samples:
            raise ValueError("streaming does not count the samples: set data.samples to their number, about")
        if streaming and self.shares:
            raise ValueError("streaming cannot hold out a share of the ids: give data.validation files of its own")
        if streaming and self.limit:
            raise ValueError("streaming cannot tell which ids there are: drop data.limit, or streaming")
        if streaming and (shuffled := shuffled_names(self.declared)):
            raise ValueError(f"streaming has no other sample at hand: drop fields.{shuffled[0]}.shuffle, or streaming")
        if streaming and self.keep:
            raise ValueError(
                "streaming reads every sample once, and keep holds all items in memory: leave one of them out"
            )
        self.streaming, self.buffer = streaming, buffer

    @abstractmethod
    def parts(self) -> int:
        """Count the parts there are to stream. Raises ValueError with the remedy when they are not there."""

    @abstractmethod
    def read(self, part: int) -> Iterator[Raw | BadSample]:
        """Read the samples of a part, still encoded."""

    def __len__(self) -> int:
        return self.samples if self.streaming and self.samples else super().__len__()

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        """Give endless batches from optimizer step `start` on, or from about there when they are streamed."""
        if not self.streaming:
            return super().batches(start, feed)
        for field in self.fields.values():
            field.prepare()
        return stream(self, feed, start, self.parts(), self.buffer)

    def decode(self, raw: Raw, id: int, rng: np.random.Generator) -> Sample:
        """Decode a sample that was streamed. Raises BadSample."""
        found = decode_sample(raw, self.fields)
        return self.choose(found, id if self.id is None else identify(raw.cells[ID], id), rng)

    def first_cells(self, name: str) -> Iterator[tuple[Sequence[object], str | Path]]:
        if not self.streaming:
            yield from super().first_cells(name)
            return
        for raw in self.read(0):
            if isinstance(raw, Raw):
                yield raw.cells[name], raw.root
