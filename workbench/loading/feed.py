"""The feed: which samples a step sees, how they are decoded and batched. Order and augmentation are pure functions of
(seed, epoch, index), so any start step, any number of workers and any number of processes sees the same samples; what
stands in for a bad sample is one, too.

The trap: an epoch has `len(data) // batch` steps; the remainder is dropped, and the next permutation brings it back.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from workbench.errors import BadSample, DataLost, RecipeError
from workbench.seeds import seed_for, seed_torch
from workbench.types import Batch, Modality, Sample, Skipped, Transform

GO_ON = "The last checkpoint is sound: put it right, and the same command goes on from there"
TRIES = 20
"""bad samples in a row after which the data set itself must be wrong: by chance only where nearly all are"""


class MapStyle(Protocol):
    """A data set with random access: what `Feed.load` can batch."""

    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """A pure function of its arguments. Raises BadSample when it cannot be used."""
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
            collate_fn=Collate(data.modalities),
            worker_init_fn=ignore_stops,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )
        yield from unless_error(loader)


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


class Ready(NamedTuple):
    """A transformed sample, and the bad ones that it stands in for."""

    inputs: dict[str, list[Tensor]]
    id: int
    targets: dict[str, int]
    skipped: list[Skipped]


class _Samples(Dataset):
    def __init__(self, data: MapStyle, transforms: Mapping[str, Transform], seed: int) -> None:
        self.data, self.transforms, self.seed = data, transforms, seed

    def __getitem__(self, place: tuple[int, int]) -> Ready | Exception:
        try:
            return self._ready(*place)
        except (DataLost, OSError, ValueError) as error:  # no bad sample
            if os.environ.get("WB_DEBUG"):
                raise
            return ValueError(f"sample {place[1]} of the training data cannot be read: {error}. {GO_ON}")

    def _ready(self, epoch: int, index: int) -> Ready | Exception:
        skipped: list[Skipped] = []
        for candidate in self._candidates(epoch, index):
            try:
                sample = self.data.sample(candidate, np.random.default_rng(seed_for(self.seed, "sample", epoch, index)))
            except BadSample as bad:
                skipped.append(Skipped(bad.name, bad.reason))
            else:
                inputs = transformed(sample, self.transforms, (self.seed, epoch, index))
                return Ready(inputs, sample.id, sample.targets, skipped)
        return all_bad(skipped)

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The sample itself, then those that may stand in for it: random ones, or neighbours would come up twice."""
        yield index
        rng = np.random.default_rng(seed_for(self.seed, "stand-in", epoch, index))
        yield from map(int, rng.integers(len(self.data), size=TRIES - 1))


def transformed(
    sample: Sample, transforms: Mapping[str, Transform], place: tuple[int, int, int]
) -> dict[str, list[Tensor]]:
    """Model inputs; what a transform draws is a function of place = (seed, epoch, index)."""
    seed, epoch, index = place
    inputs: dict[str, list[Tensor]] = {}
    for modality, items in sample.inputs.items():
        inputs[modality] = []
        for k, raw in enumerate(items):
            seed_torch(seed, "augment", modality, epoch, index, k)  # torchvision draws from the global generator
            inputs[modality].append(transforms[modality](raw))
    return inputs


def all_bad(skipped: list[Skipped]) -> ValueError:
    """What to say after TRIES bad samples in a row."""
    return ValueError(
        f"{len(skipped)} samples in a row cannot be used, as {skipped[0]} and {skipped[-1]}: "
        "check that the keys under `data` name pictures and captions, and that the files are whole"
    )


def unless_error(loader: Iterable[Any]) -> Iterator[Batch]:
    """A worker hands an expected error over as a value: raised there, it would arrive wrapped in its traceback."""
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


@dataclass(frozen=True)
class Collate:
    """Stack samples, padding each modality to its full number of items; `valid` tells which are real."""

    modalities: Mapping[str, Modality]

    def __call__(self, samples: Sequence[Ready | Exception]) -> Batch | Exception:
        errors = [s for s in samples if isinstance(s, Exception)]
        try:
            return errors[0] if errors else self._batch([s for s in samples if isinstance(s, Ready)])
        except ValueError as error:
            return error

    def _batch(self, samples: Sequence[Ready]) -> Batch:
        inputs, valid = {}, {}
        for name, modality in self.modalities.items():
            template = next((x for s in samples for x in s.inputs.get(name, ())), None)
            if template is None:
                raise ValueError(f"no sample of this batch has any '{name}': use a larger train.batch or other data")
            rows = [_pad(s.inputs.get(name, []), template, modality.count) for s in samples]
            # in a worker this is written once, into the memory that it shares with its parent
            inputs[name] = default_collate([x for row in rows for x in row]).unflatten(0, (len(rows), modality.count))
            have = torch.tensor([len(s.inputs.get(name, ())) for s in samples])
            valid[name] = torch.arange(modality.count) < have[:, None]
        targets = {t: torch.tensor([s.targets[t] for s in samples]) for t in samples[0].targets}
        skipped = tuple(bad for s in samples for bad in s.skipped)
        return Batch(inputs, valid, torch.tensor([s.id for s in samples]), targets, skipped)


def _pad(items: list[Tensor], template: Tensor, count: int) -> list[Tensor]:
    """`count` of them; absent items repeat the first one, so that no encoder sees a degenerate input."""
    filler = items[0] if items else torch.zeros_like(template)
    return items + [filler] * (count - len(items))


def ignore_stops(_: int) -> None:
    """Ctrl-C and schedulers signal the whole process group: the parent finishes its step and needs its workers for it.

    They end when the parent tells them to, or within seconds of its death.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
