"""A batch by micro-batches: all its rows are embedded first, without activations, and again one micro-batch at a time.

A contrastive loss mixes all samples, so plain accumulation would shrink its negatives. But only through the embeddings:
given the loss's gradient at these, each micro-batch can go on alone (GradCache, Gao et al. 2021). The gradient is that
of the whole batch, as the model is a per-sample map, and micro-batches add up in fp32 whatever they compute in.

Traps
- Dropout has to be the same both times, so each micro-batch has a seed of its own.
- What counts its forwards in training, as BatchNorm's running statistics, counts two for each micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workbench.model import Model
from workbench.types import Batch, Side, View, Views

Embedded = dict[Side, tuple[Tensor, Tensor]]
"""{side: (z [n, k, d], valid [n, k])}"""


class Rows(NamedTuple):
    """Consecutive rows of a batch."""

    at: slice
    inputs: dict[str, Tensor]
    valid: dict[str, Tensor]


class Embedding(nn.Module):
    """The model, as DistributedDataParallel wraps it: what it returns are tuples, in which that finds its tensors."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor], valid: dict[str, Tensor], sides: Sequence[Side]) -> Embedded:
        return {side: (view.z, view.valid) for side, view in self.model(inputs, valid, sides).items()}


def split(batch: Batch, size: int | None) -> list[Rows]:
    """Micro-batches of at most `size` rows; None: one of all."""
    size = size or len(batch)
    slices = [slice(begin, begin + size) for begin in range(0, len(batch), size)]
    return [Rows(at, _rows(batch.inputs, at), _rows(batch.valid, at)) for at in slices]


def joined(parts: Sequence[Embedded]) -> Views:
    """Of all micro-batches together."""
    if len(parts) == 1:
        return {side: View(*pair) for side, pair in parts[0].items()}
    sides = {side: zip(*(part[side] for part in parts), strict=True) for side in parts[0]}
    return {side: View(*map(torch.cat, pairs)) for side, pairs in sides.items()}


def _rows(tree: dict[str, Tensor], at: slice) -> dict[str, Tensor]:
    return {name: x[at] for name, x in tree.items()}
