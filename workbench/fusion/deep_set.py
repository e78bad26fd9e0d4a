"""One fusion for every subset of modalities: a sum of projections of those that are there, then an MLP (deep set).

The trap: a sum of absent modalities' projections would carry their biases, so a subset must be told by its mask alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from workbench.types import Features, Fusion, Side

__all__ = ["DeepSet"]


class DeepSet(Fusion):
    """z_S = MLP(sum_{m in S} (W_m h_m + b_m)): ReLU, dropout, linear; the same weights for every side.

    Zaheer et al. 2017 (arXiv 1703.06114), with a projection for each modality in the place of a shared one. The order
    of a side's members does not matter; one with all members is an MLP of their concatenation. `widths` are those of
    `pooled`. (sum of widths + M + 1) hidden + (hidden + 1) dim parameters, whatever the number of sides.

    Args:
        hidden: units of the hidden layer
        dropout: of the hidden units

    Raises ValueError when a fused side has a member that `widths` or `features` lack.
    """

    kept_at_inference = True
    needs_tokens = False

    def __init__(
        self,
        sides: Sequence[Side],
        widths: Mapping[str, int],
        dim: int,
        *,
        hidden: PositiveInt = 512,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ):
        super().__init__()
        for side in sides:
            if missing := [m for m in side.members if m not in widths]:
                raise ValueError(f"side '{side}' fuses {missing}, but the encoders are {list(widths)}")
        self.widths = dict(widths)
        # all W_m and b_m in one matrix, on [h ; mask] with zeros for what is absent: every weight then has a gradient
        # at every step, as an optimizer that skips those without one needs it
        self.project = nn.Linear(sum(widths.values()) + len(widths), hidden)
        self.readout = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))

    def forward(
        self, side: Side, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]] | None = None
    ) -> Float[Tensor, "n d"]:
        """Rows in which a member is absent (`present` is False) are fused as the subset without it."""
        members = Side.parse(side).members
        if missing := [m for m in members if m not in features]:
            raise ValueError(f"side '{side}' needs the features of {missing}; there are {list(features)}")
        like = features[members[0]].pooled
        h, mask = [], []
        for m, width in self.widths.items():
            if m in members:
                there = like.new_ones(len(like), dtype=torch.bool) if present is None else present[m]
                h.append(features[m].pooled.where(there[:, None], 0))
                mask.append(there.to(like.dtype))
            else:
                h.append(like.new_zeros(len(like), width))
                mask.append(like.new_zeros(len(like)))
        return self.readout(self.project(torch.cat([*h, torch.stack(mask, 1)], 1)))
