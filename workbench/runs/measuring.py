"""Before the first step: encoders that need it see the training split, as for the mean and spread of its numbers.

The trap: processes that measured by themselves would have to read the same items, or their models would differ. One
process measures, and the others take its buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from workbench.build import Parts
from workbench.distributed.processes import Parallel
from workbench.errors import BadSample
from workbench.loading.feed import MapStyle
from workbench.seeds import seed_for
from workbench.types import Data, Encoder, HasItems

AT_MOST = 100_000
"""items that are read of a modality: the error of a mean is then 0.3 % of the spread"""


def measure(parts: Parts, parallel: Parallel) -> list[str]:
    """Let every encoder that needs it measure items of its modality; returns a line for people about each.

    Raises ValueError for data that does not give single items, and for a split without any.
    """
    lines: list[str] = []
    for modality, encoder in parts.model.encoders.items():
        if not encoder.needs_items:
            continue
        if parallel.rank == 0:
            counted = _Counted(training_items(parts.data, modality, parts.recipe.seed))
            try:
                encoder.measure(counted)
            except ValueError as error:
                raise ValueError(f"model.encoders.{modality}: {error}") from None
            lines.append(f"measured {counted.number} training items of {modality}")
        _share_buffers(encoder, parallel)
    return lines


def training_items(data: Data, modality: str, seed: int, at_most: int = AT_MOST) -> Iterator[Any]:
    """Yield raw items of the training split, bad samples left out: the first ones, where there are more than `at_most`.

    Raises ValueError for data that cannot give them.
    """
    if isinstance(data, HasItems):
        yield from data.raw_items(modality, at_most)
        return
    if not isinstance(data, MapStyle):
        raise ValueError(
            "this data gives no single items to standardise by: set standardise to false, or give its class "
            "sample(index, rng) or raw_items(modality, at_most)"
        )
    for index in range(min(len(data), at_most)):
        rng = np.random.default_rng(seed_for(seed, "measure", index))
        try:
            yield from data.sample(index, rng).inputs.get(modality, [])[:1]
        except BadSample:  # the feed counts it when its turn comes
            continue


def _share_buffers(encoder: Encoder, parallel: Parallel) -> None:
    """Copy the buffers of the first process to all."""
    own = dict(encoder.named_buffers())
    sent = {name: x.cpu() for name, x in own.items()} if parallel.rank == 0 else None
    (first, *_) = parallel.gather_objects(sent, "the buffers of an encoder")
    assert first is not None
    with torch.no_grad():
        for name, x in own.items():
            x.copy_(first[name])


class _Counted:
    """Counts the items that are taken of an iterator."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items, self.number = items, 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.number += 1
            yield item
