"""From raw samples to a batch: transformed, checked, padded, stacked.

The trap: a worker's batch is pickled in a thread of its own, where an error is printed and the parent waits for ever;
so whatever can go wrong with a tensor has to go wrong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from workbench.errors import BadSample, failure
from workbench.seeds import seed_torch
from workbench.types import Batch, HasItems, Modality, Sample, Skipped, Transform


class Ready(NamedTuple):
    """A transformed sample, and the bad ones that it stands in for."""

    inputs: dict[str, list[Tensor]]
    id: int
    targets: dict[str, int]
    skipped: list[Skipped]


def prepare(
    name: str,
    sample: Sample,
    modalities: Mapping[str, Modality],
    transforms: Mapping[str, Transform],
    place: tuple[int, int, int],
) -> dict[str, list[Tensor]]:
    """Transform the items of a sample to model inputs; what a transform draws is a function of place = (seed, epoch,
    index).

    Modalities that no encoder reads are left out. Raises BadSample, by `name`, for an item that is not what its
    modality declares, or not a number.
    """
    seed, epoch, index = place
    inputs: dict[str, list[Tensor]] = {}
    for modality, items in sample.inputs.items():
        if modality not in transforms:
            continue
        inputs[modality] = []
        for k, raw in enumerate(items):
            seed_torch(seed, "augment", modality, epoch, index, k)  # torchvision draws from the global generator
            if reason := unfit(raw, modalities[modality]):
                raise BadSample(name, f"its {modality} {reason}")
            x = transforms[modality](raw)
            if isinstance(x, Tensor) and x.is_floating_point() and not x.isfinite().all():
                raise BadSample(name, f"its {modality} holds {x[~x.isfinite()][0].item()}")
            inputs[modality].append(x.detach() if isinstance(x, Tensor) else x)
    return inputs


def unfit(raw: object, modality: Modality) -> str | None:
    """Say why a raw item is not what its modality declares: another shape, no frame, no sample of sound."""
    declared = tuple(modality.shape)
    if modality.kind == "audio":
        return unfit_sound(raw)
    if not declared or not isinstance(raw, Tensor | np.ndarray):
        return None
    if modality.kind == "vector" and tuple(raw.shape) != declared:
        return f"is {spell(raw.shape)}, where the data declares {spell(declared)}: pad or cut it"
    if modality.kind == "sequence" and (raw.ndim != 2 or not len(raw) or raw.shape[1] != declared[1]):
        return f"is {spell(raw.shape)}, where the data declares frames x {declared[1]}, of any number of frames but 0"
    return None


def unfit_sound(raw: object) -> str | None:
    """Say why an item is no sound: it has to be (samples of one channel, samples a second)."""
    if not isinstance(raw, tuple) or len(raw) != 2 or not isinstance(raw[0], Tensor):
        return f"is {type(raw).__name__}, and not a pair (waveform, rate)"
    waveform, rate = raw
    if waveform.ndim != 1 or not waveform.is_floating_point():
        kind = str(waveform.dtype).removeprefix("torch.")
        return f"is {spell(waveform.shape)} of {kind}: a waveform is one channel of floats"
    if not len(waveform):
        return "is 0 samples long"
    if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
        return f"has a rate of {rate!r} samples a second"
    bad = waveform[~waveform.isfinite()]  # of all of it: a crop may miss the place
    return f"holds {bad[0].item()}" if len(bad) else None


def to_float32(raw: Any) -> Tensor:
    """Turn anything array-like into float32: the transform of an encoder of vectors that changes nothing."""
    return torch.as_tensor(raw, dtype=torch.float32)


def spell(shape: Sequence[int]) -> str:
    """Write a shape as people do: 50 x 7."""
    return " x ".join(map(str, shape)) or "a single number"


def ready(inputs: dict[str, list[Tensor]], sample: Sample, id: int, skipped: list[Skipped]) -> Ready:
    """Make sure that the id and each label are one int. Raises ValueError for several labels, or for words."""
    for name, value in {"id": id, **{f"target '{name}'": label for name, label in sample.targets.items()}}.items():
        if not isinstance(value, SupportsIndex):
            raise ValueError(f"its {name} is {value!r}, and not one int; a target may be left out where there is none")
    return Ready(inputs, index(id), {name: index(label) for name, label in sample.targets.items()}, skipped)


def all_bad(skipped: Sequence[Skipped]) -> ValueError:
    """Say what to look at after that many bad samples in a row."""
    return ValueError(
        f"{len(skipped)} samples in a row cannot be used, as {skipped[0]} and {skipped[-1]}: "
        "check what the keys under `data` name, and that the files are whole"
    )


@dataclass
class StandIn:
    """Makes an input of a modality out of the first one that the training data have, once for each."""

    data: object
    transforms: Mapping[str, Transform]
    found: dict[str, Tensor | None] = field(default_factory=dict)

    def __call__(self, name: str) -> Tensor | None:
        """Give it, or None where the data cannot read one by itself, or has none."""
        if name not in self.found:
            raw = next(self.data.raw_items(name, 1), None) if isinstance(self.data, HasItems) else None
            self.found[name] = None if raw is None else self.transforms[name](raw)
        return self.found[name]


@dataclass(frozen=True)
class Collate:
    """Stacks samples, padding each modality to its full number of items; `valid` tells which are real."""

    modalities: Mapping[str, Modality]
    """those that encoders read"""
    stand_in: StandIn | None = None
    """makes an input of a modality that no sample of a batch has: of a rare one, most batches have none"""

    def __call__(self, samples: Sequence[Ready | Exception]) -> Batch | Exception:
        """Give a batch, or the first failure among its samples, or its own."""
        ready: list[Ready] = []
        for sample in samples:
            if isinstance(sample, Exception):
                return sample
            ready.append(sample)
        try:
            return self._batch(ready)
        except ValueError as error:
            return error
        except BaseException as error:
            return failure(f"the batch of samples {ready[0].id} to {ready[-1].id}", error)

    def _batch(self, samples: Sequence[Ready]) -> Batch:
        inputs, valid = {}, {}
        for name, modality in self.modalities.items():
            template = self._template(name, samples)
            rows = [_pad(s.inputs.get(name, []), template, modality.count) for s in samples]
            # in a worker this is written once, into the memory that it shares with its parent
            stacked: Tensor = default_collate([x for row in rows for x in row])
            inputs[name] = stacked.unflatten(0, (len(rows), modality.count))
            have = torch.tensor([len(s.inputs.get(name, ())) for s in samples])
            valid[name] = torch.arange(modality.count) < have[:, None]
        known = dict.fromkeys(t for s in samples for t in s.targets)
        targets = {t: torch.tensor([s.targets.get(t, -1) for s in samples]) for t in known}
        skipped = tuple(bad for s in samples for bad in s.skipped)
        batch = Batch(inputs, valid, torch.tensor([s.id for s in samples]), targets, skipped)
        if get_worker_info():
            for x in (*inputs.values(), *valid.values(), *targets.values(), batch.ids):
                x.share_memory_()
        return batch

    def _template(self, name: str, samples: Sequence[Ready]) -> Tensor:
        """Find the first item there is. Raises ValueError when there is none, or when another has another shape."""
        first: tuple[int, Tensor] | None = None
        for sample in samples:
            for x in sample.inputs.get(name, ()):
                first = first or (sample.id, x)
                if x.shape != first[1].shape:
                    raise ValueError(
                        f"'{name}' of sample {first[0]} is {spell(first[1].shape)}, of sample {sample.id} "
                        f"{spell(x.shape)}: a modality needs one shape; pad or cut it in the class of the data"
                    )
        if first is None and self.stand_in and (other := self.stand_in(name)) is not None:
            return other
        if first is None:
            raise ValueError(f"no sample of this batch has any '{name}': use a larger train.batch or other data")
        return first[1]


def _pad(items: list[Tensor], template: Tensor, count: int) -> list[Tensor]:
    """Give `count` items; absent ones repeat the first, so that no encoder sees a degenerate input."""
    filler = items[0] if items else torch.zeros_like(template)
    return items + [filler] * (count - len(items))
