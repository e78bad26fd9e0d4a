"""A batch by micro-batches: all its rows are embedded first, without activations, and again one micro-batch at a time.

A contrastive loss mixes all samples, so plain accumulation would shrink its negatives. But it mixes them only through
their embeddings: given the gradient of the loss at these, each micro-batch is backpropagated alone (GradCache, Gao et
al. 2021, arXiv 2101.06983). The sum over micro-batches is the gradient of the whole batch, because the model is a
per-sample map; it is accumulated in fp32 whatever the micro-batches compute in.

Traps
- Dropout has to be the same in both forward passes. So every part draws from its own seed for each micro-batch: the
  second pass leaves out parts that do not learn, and those would not advance a common generator.
- A module that counts its forwards in training, as BatchNorm's running statistics do, counts two per micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workbench.model import Model
from workbench.seeds import seed_torch
from workbench.types import Batch, Side, View, Views

Embedded = dict[Side, tuple[Tensor, Tensor]]
"""{side: (z [n, k, d], valid [n, k])}"""


class Slice(NamedTuple):
    """Consecutive rows of a batch."""

    at: slice
    inputs: dict[str, Tensor]
    valid: dict[str, Tensor]


class TrainedModel(nn.Module):
    """The model as the loop calls it.

    It returns plain tuples: DistributedDataParallel finds the tensors that need gradients in tuples and dicts, but not
    inside of a `View`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: dict[str, Tensor], valid: dict[str, Tensor], sides: Sequence[Side], place: tuple[int, ...]
    ) -> Embedded:
        """Embed rows; what each part draws is a function of `place` = (seed, step, rank, first row) and the part."""
        # every part is seeded by itself, so that a locked tower that is not run again shifts nobody else's draws
        views = self.model(inputs, valid, sides, lambda part: seed_torch(*place, part))
        return {side: (view.z, view.valid) for side, view in views.items()}


def split(batch: Batch, size: int | None) -> list[Slice]:
    """Cut a batch into micro-batches of at most `size` rows; None gives one of all rows."""
    # slices are views of the batch's memory: nothing is copied, and `at` finds the rows again among the gradients
    size = size or len(batch)
    slices = [slice(begin, begin + size) for begin in range(0, len(batch), size)]
    return [Slice(at, _take(batch.inputs, at), _take(batch.valid, at)) for at in slices]


def join(parts: Sequence[Embedded]) -> Views:
    """Concatenate the embeddings of all micro-batches."""
    if len(parts) == 1:
        return {side: View(*pair) for side, pair in parts[0].items()}
    sides = {side: zip(*(part[side] for part in parts), strict=True) for side in parts[0]}
    return {side: View(*map(torch.cat, pairs)) for side, pairs in sides.items()}


def _take(tree: dict[str, Tensor], at: slice) -> dict[str, Tensor]:
    return {name: x[at] for name, x in tree.items()}
