"""The feed: which samples a step sees, how they are decoded and batched. Order and augmentation are pure functions of
(seed, epoch, index), so any start step, any number of workers and any number of processes sees the same samples.

The trap: an epoch has `len(data) // batch` steps; the remainder is dropped, and the next permutation brings it back.

What cannot be read crosses from a worker as a value: torch would put the worker's traceback into the message.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from workbench.errors import RecipeError
from workbench.seeds import seed_for, seed_torch
from workbench.types import Batch, Modality, Sample, Transform

Row = tuple[dict[str, list[Tensor]], int, dict[str, int]]
"""a sample that is ready for a batch: its inputs, id and targets"""
GO_ON = "The last checkpoint is sound: put it right, and the same command goes on from there"


class MapStyle(Protocol):
    """A data set with random access: what `Feed.load` can batch."""

    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """a pure function of its arguments"""
        ...


@dataclass(frozen=True)
class Feed:
    """What the build tells a data set about a run."""

    transforms: Mapping[str, Transform]
    batch: int
    """samples a step over all processes"""
    seed: int
    rank: int = 0
    world: int = 1
    workers: int = 0

    def rows(self, start: int, length: int) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, this process's sample indices) for every step from `start` on, without end."""
        steps, share = epoch_steps(length, self.batch), self.batch // self.world
        step = start
        while True:
            epoch, at = divmod(step, steps)
            if step == start or at == 0:
                order = np.random.default_rng(seed_for(self.seed, "order", epoch)).permutation(length)
            begin = at * self.batch + self.rank * share
            yield epoch, order[begin : begin + share]
            step += 1

    def load(self, data: MapStyle, start: int) -> Iterator[Batch]:
        """Batches of a map-style data set, decoded and transformed in worker processes."""
        loader = DataLoader(
            _Samples(data, self.transforms, self.seed),
            batch_sampler=_Places(self, start, len(data)),  # type: ignore[arg-type]  # any iterable of index lists serves
            num_workers=self.workers,
            collate_fn=_Collate(data.modalities),
            worker_init_fn=_ignore_stops,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )
        for batch in loader:
            if isinstance(batch, Unreadable):
                raise ValueError(f"{batch.reason}. {GO_ON}")
            yield batch


@dataclass(frozen=True)
class Unreadable:
    """A sample, or a batch, that could not be made, and why."""

    reason: str


def epoch_steps(length: int, batch: int) -> int:
    """Steps in an epoch of `length` samples. Raises RecipeError when the batch does not fit."""
    if length < batch:
        raise RecipeError(
            f"train.batch={batch} is larger than the data set ({length} samples): set train.batch={length} or less"
        )
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
    def __init__(self, data: MapStyle, transforms: Mapping[str, Transform], seed: int) -> None:
        self.data, self.transforms, self.seed = data, transforms, seed

    def __getitem__(self, place: tuple[int, int]) -> Row | Unreadable:
        try:
            return self._read(*place)
        except (OSError, ValueError) as error:
            if os.environ.get("WB_DEBUG"):
                raise
            return Unreadable(f"sample {place[1]} of the training data cannot be read: {error}")

    def _read(self, epoch: int, index: int) -> Row:
        sample = self.data.sample(index, np.random.default_rng(seed_for(self.seed, "sample", epoch, index)))
        inputs = {
            m: [self._transform(m, raw, (epoch, index, k)) for k, raw in enumerate(items)]
            for m, items in sample.inputs.items()
        }
        return inputs, sample.id, sample.targets

    def _transform(self, modality: str, raw: Any, place: tuple[int, int, int]) -> Tensor:
        seed_torch(self.seed, "augment", modality, *place)  # torchvision's transforms draw from the global generator
        return self.transforms[modality](raw)


@dataclass(frozen=True)
class _Collate:
    """Stack samples, padding each modality to its full number of items; `valid` tells which are real."""

    modalities: Mapping[str, Modality]

    def __call__(self, samples: list[Row | Unreadable]) -> Batch | Unreadable:
        unreadable = next((s for s in samples if isinstance(s, Unreadable)), None)
        try:
            return unreadable or self._stack([s for s in samples if not isinstance(s, Unreadable)])
        except ValueError as error:
            return Unreadable(str(error))

    def _stack(self, samples: list[Row]) -> Batch:
        inputs, valid = {}, {}
        for name, modality in self.modalities.items():
            template = next((x for items, _, _ in samples for x in items.get(name, ())), None)
            if template is None:
                raise ValueError(f"no sample of this batch has any '{name}': use a larger train.batch or other data")
            inputs[name] = torch.stack([_pad(items.get(name, []), template, modality.count) for items, _, _ in samples])
            have = torch.tensor([len(items.get(name, ())) for items, _, _ in samples])
            valid[name] = torch.arange(modality.count) < have[:, None]
        targets = {t: torch.tensor([s[2][t] for s in samples]) for t in samples[0][2]}
        return Batch(inputs, valid, torch.tensor([s[1] for s in samples]), targets)


def _pad(items: list[Tensor], template: Tensor, count: int) -> Tensor:
    """[count, ...]; absent items repeat the first one, so that no encoder sees a degenerate input."""
    filler = items[0] if items else torch.zeros_like(template)
    return torch.stack(items + [filler] * (count - len(items)))


def _ignore_stops(_: int) -> None:
    """Ctrl-C and schedulers signal the whole process group: the parent finishes its step and needs its workers for it.

    They end when the parent tells them to, or within seconds of its death.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
