"""The whole local batch through the model, while the activations of one micro-batch at a time are held."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.types import Views


class Microbatched(nn.Module):
    """A model called on all rows of this process, `size` of them at once (None: all).

    A contrastive loss mixes all samples, so plain gradient accumulation would shrink its negatives. Checkpointing each
    micro-batch keeps inputs and embeddings only and recomputes the rest in the backward pass: the exact full-batch
    gradient (GradCache, Gao et al. 2021), dropout included, as the model is a per-sample map.
    """

    def __init__(self, model: nn.Module, size: int | None) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(
        self, inputs: dict[str, Tensor], valid: dict[str, Tensor], sides: list[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """{side: (z [b, k, d], valid [b, k])}: tuples, in which DistributedDataParallel finds what it has to watch."""
        rows = len(next(iter(inputs.values())))
        if not self.size or self.size >= rows:
            return _pairs(self.model(inputs, valid, sides))
        run = partial(checkpoint, self.model, use_reentrant=False)
        chunks = [
            _pairs(run(_rows(inputs, i, self.size), _rows(valid, i, self.size), sides))
            for i in range(0, rows, self.size)
        ]
        return {
            side: (torch.cat([chunk[side][0] for chunk in chunks]), torch.cat([chunk[side][1] for chunk in chunks]))
            for side in sides
        }


def _pairs(views: Views) -> dict[str, tuple[Tensor, Tensor]]:
    return {side: (view.z, view.valid) for side, view in views.items()}


def _rows(tree: dict[str, Tensor], begin: int, size: int) -> dict[str, Tensor]:
    return {name: x[begin : begin + size] for name, x in tree.items()}
