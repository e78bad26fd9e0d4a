"""The feed: which samples a step sees, how they are decoded and batched. Order and augmentation are pure functions of
(seed, epoch, index), so any start step, any number of workers and any number of processes sees the same samples; what
stands in for a bad sample is one, too.

The trap: an epoch has `len(data) // batch` steps; the remainder is dropped, and the next permutation brings it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from workbench.errors import BadSample, RecipeError, failure
from workbench.loading.batching import Collate, Ready, StandIn, all_bad, prepare, ready
from workbench.loading.workers import ignore_stops, read_batches
from workbench.seeds import seed_for
from workbench.types import Batch, Modality, Sample, Skipped, Transform

TRIES = 20
"""bad samples in a row after which the data set itself must be wrong: by chance only where nearly all are"""


@runtime_checkable
class MapStyle(Protocol):
    """A data set with random access: what `Feed.load` can batch."""

    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Read a sample, as a pure function of the arguments. Raises BadSample when it cannot be used."""
        ...


@dataclass(frozen=True)
class Feed:
    """A run as a data set needs to know it: which samples this process reads, in which order, by how many workers."""

    transforms: Mapping[str, Transform]
    batch: int
    """samples a step over all processes"""
    seed: int
    rank: int = 0
    world: int = 1
    workers: int = 0

    def rows(self, start: int, length: int) -> Iterator[tuple[int, np.ndarray]]:
        """Give (epoch, this process's sample indices) for every step from `start` on, without end."""
        steps, rows = epoch_steps(length, self.batch), self.batch // self.world
        step = start
        while True:
            epoch, at = divmod(step, steps)
            if step == start or at == 0:
                # a digest of (seed, epoch) and nothing else: no state to save, so a resume cannot restore a wrong one
                order = np.random.default_rng(seed_for(self.seed, "order", epoch)).permutation(length)
            begin = at * self.batch + self.rank * rows  # all ranks cut one permutation: no sample comes twice a step
            yield epoch, order[begin : begin + rows]
            step += 1

    def load(self, data: MapStyle, start: int) -> Iterator[Batch]:
        """Give the batches of a map-style data set, decoded and transformed in worker processes.

        Raises ValueError, in one message, for whatever the data raises for a sample, of any type.
        """
        loader = DataLoader(
            _Samples(data, self.transforms, self.seed),
            batch_sampler=_Places(self, start, len(data)),  # type: ignore[arg-type]  # any iterable of index lists serves
            num_workers=self.workers,
            collate_fn=Collate(self.encoded(data.modalities), StandIn(data, self.transforms)),
            worker_init_fn=ignore_stops,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )
        yield from read_batches(loader)

    def encoded(self, modalities: Mapping[str, Modality]) -> dict[str, Modality]:
        """Choose the modalities that an encoder of the recipe reads."""
        return {name: modality for name, modality in modalities.items() if name in self.transforms}


def epoch_steps(length: int, batch: int) -> int:
    """Count the steps in an epoch of `length` samples. Raises RecipeError when the batch does not fit."""
    if length < batch:
        remedy = f"set train.batch={length} or less" if length > 1 else "it needs two, to contrast them"
        raise RecipeError(f"train.batch={batch} is larger than the data set ({length} samples): {remedy}")
    return length // batch


@dataclass(frozen=True)
class _Places:
    """Endless lists of (epoch, index): picklable, so that spawned workers can have it."""

    feed: Feed
    start: int
    length: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch, indices in self.feed.rows(self.start, self.length):
            yield [(epoch, int(index)) for index in indices]


class _Samples(Dataset):
    """Reads and transforms the sample of a place (epoch, index), or one that stands in for it."""

    def __init__(self, data: MapStyle, transforms: Mapping[str, Transform], seed: int) -> None:
        self.data, self.transforms, self.seed = data, transforms, seed

    def __getitem__(self, place: tuple[int, int]) -> Ready | Exception:
        try:
            return self._ready(*place)
        except BaseException as error:  # whatever a data set of one's own may raise
            return failure(f"sample {place[1]} of the training data", error)

    def _ready(self, epoch: int, index: int) -> Ready | Exception:
        skipped: list[Skipped] = []
        for candidate in self._candidates(epoch, index):
            # seeded by the place, not by the candidate: what stands in is a function of the place alone
            rng = np.random.default_rng(seed_for(self.seed, "sample", epoch, index))
            try:
                sample = self.data.sample(candidate, rng)
                name, place = f"sample {candidate}", (self.seed, epoch, index)
                inputs = prepare(name, sample, self.data.modalities, self.transforms, place)
            except BadSample as bad:
                skipped.append(Skipped(str(bad.name), str(bad.reason)))
            else:
                return ready(inputs, sample, sample.id, skipped)
        return all_bad(skipped)

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """Name the sample itself, then those that may stand in for it: random ones, as neighbours would come up twice
        an epoch for each run of bad samples."""
        yield index
        rng = np.random.default_rng(seed_for(self.seed, "stand-in", epoch, index))
        yield from map(int, rng.integers(len(self.data), size=TRIES - 1))
