"""The feed of data that is read from front to back: whole tars in random order through a shuffle buffer.

What is promised: every epoch visits the parts in another order, no part goes to two workers in one epoch, a bad sample
is skipped and counted, and no process ever waits for another one's data. What is not, against `Feed.load`: batches
depend on the number of workers and processes, a pass is over when its steps are, not when its samples are, and a
resume begins at the next whole part near where the run was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from workbench.errors import BadSample, failure
from workbench.loading.batching import Collate, Ready, StandIn, all_bad, prepare, ready
from workbench.loading.feed import TRIES, Feed, epoch_steps
from workbench.loading.workers import ignore_stops, read_batches
from workbench.seeds import seed_for
from workbench.types import Batch, Modality, Sample, Skipped

T = TypeVar("T")
RawT = TypeVar("RawT")


class StreamStyle(Protocol[RawT]):
    """A data set of parts that are read from front to back: what `stream` can batch."""

    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    def __len__(self) -> int:
        """Say how many samples an epoch has, for its number of steps."""
        ...

    def read(self, part: int) -> Iterator[RawT | BadSample]:
        """Read the raw samples of a part, still encoded, as the shuffle buffer holds many.

        A BadSample among them is one that could not even be read.
        """
        ...

    def decode(self, raw: RawT, id: int, rng: np.random.Generator) -> Sample:
        """Decode one of them. Raises BadSample."""
        ...


def stream(data: StreamStyle[RawT], feed: Feed, start: int, parts: int, buffer: int) -> Iterator[Batch]:
    """Give endless batches from about step `start` on.

    Raises ValueError when there are fewer parts than readers, and, in one message, for whatever the data raises.
    """
    readers = feed.world * max(1, feed.workers)
    if parts < readers:
        fewer = f"set parallel.workers={parts // feed.world} or less, " if parts >= feed.world else ""
        raise ValueError(
            f"streaming reads {parts} parts (tars, files) with {readers} readers (processes x parallel.workers): "
            f"{fewer}split them smaller, or set data.streaming=false"
        )
    loader = DataLoader(
        _Stream(data, feed, start, parts, buffer),
        batch_size=None,  # a worker makes whole batches
        num_workers=feed.workers,
        collate_fn=_as_it_is,
        worker_init_fn=ignore_stops,
        pin_memory=torch.cuda.is_available(),
    )
    yield from read_batches(loader)


@dataclass
class _Stream(IterableDataset, Generic[RawT]):
    data: StreamStyle[RawT]
    feed: Feed
    start: int
    parts: int
    buffer: int

    def __iter__(self) -> Iterator[Batch | Exception]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        try:
            yield from self._batches(self.feed.rank * workers + worker, self.feed.world * workers)
        except BaseException as error:
            yield failure("the training data", error)

    def _batches(self, reader: int, readers: int) -> Iterator[Batch | Exception]:
        rng = np.random.default_rng(seed_for(self.feed.seed, "stream", self.start, reader))
        stand_in = StandIn(self.data, self.feed.transforms)
        collate = Collate(self.feed.encoded(self.data.modalities), stand_in)
        waiting: list[Ready] = []
        bad: list[Skipped] = []
        for epoch, id, raw in shuffled(self._raws(reader, readers), self.buffer, rng):
            try:
                waiting.append(self._ready(epoch, id, raw, bad))
            except BadSample as error:
                bad.append(Skipped(str(error.name), str(error.reason)))
                if len(bad) >= TRIES:
                    break
                continue
            bad = []
            if len(waiting) == self.feed.batch // self.feed.world:
                yield collate(waiting)
                waiting = []
        yield all_bad(bad) if bad else ValueError(f"streaming found no sample in the parts of reader {reader}")

    def _ready(self, epoch: int, id: int, raw: RawT | BadSample, bad: list[Skipped]) -> Ready:
        """Decode and transform a raw sample, which stands in for the bad ones before it. Raises BadSample."""
        if isinstance(raw, BadSample):
            raise raw
        sample = self.data.decode(raw, id, np.random.default_rng(seed_for(self.feed.seed, "sample", epoch, id)))
        place = (self.feed.seed, epoch, id)
        inputs = prepare(f"sample {id}", sample, self.data.modalities, self.feed.transforms, place)
        return ready(inputs, sample, id, bad)

    def _raws(self, reader: int, readers: int) -> Iterator[tuple[int, int, RawT | BadSample]]:
        """Read (epoch, id, raw sample) in the order of the parts, epoch after epoch; ends when a pass finds nothing."""
        steps = epoch_steps(len(self.data), self.feed.batch)
        first, at = divmod(self.start, steps)
        for epoch in count(first):
            # every reader draws the same permutation and takes each `readers`-th part: none is read twice a pass, and
            # nobody has to ask another process which ones are left
            order = np.random.default_rng(seed_for(self.feed.seed, "parts", epoch)).permutation(self.parts)
            mine = order[reader::readers].tolist()
            found = False
            for part in mine[len(mine) * at // steps :]:  # a resume skips the parts that were read, about
                for place, raw in enumerate(self.data.read(part)):
                    found = True
                    yield epoch, (part << 32) + place, raw
            if not found and not at:
                return
            at = 0


def shuffled(items: Iterable[T], size: int, rng: np.random.Generator) -> Iterator[T]:
    """Give each item in exchange for a random one of the `size` that wait; at the end, those in random order."""
    waiting: list[T] = []
    for item in items:
        if len(waiting) < size:
            waiting.append(item)
            continue
        place = int(rng.integers(size))
        yield waiting[place]
        waiting[place] = item
    for place in rng.permutation(len(waiting)).tolist():
        yield waiting[place]


def _as_it_is(batch: Any) -> Any:
    return batch
