"""One fusion for every subset of modalities: an MLP reads the sum of the projections of those present (deep set).

The trap: projections of absent modalities would add their biases to the sum. So each bias is multiplied by the mask.
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
    """Computes z_S = MLP(sum_{m in S} (W_m h_m + b_m)): ReLU, dropout, linear, with the same weights for every side.

    It is the deep set of Zaheer et al. 2017 (arXiv 1703.06114), with a projection for each modality in the place of a
    shared one. The order of a side's members does not matter; a side of all modalities is an MLP of their
    concatenation. It has (sum of widths + M + 1) hidden + (hidden + 1) dim parameters for M modalities and any number
    of sides.

    Args:
        hidden: units of the hidden layer
        dropout: probability that a hidden unit is left out in training

    Raises ValueError when a side has a member of which there is no encoder.
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
        # All W_m and b_m stand in one matrix, which reads [h ; mask] with zeros for what is absent. So every weight has
        # a gradient at every step; AdamW would not decay those of a side that was not drawn.
        self.project = nn.Linear(sum(widths.values()) + len(widths), hidden)
        self.readout = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))

    def forward(
        self, side: Side, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]] | None = None
    ) -> Float[Tensor, "n d"]:
        """Fuse n rows to [n, dim]; one that lacks a member (`present` is False) is fused as the subset without it.

        Raises ValueError when the features of a member are missing.
        """
        members = Side.parse(side).members
        if missing := [m for m in members if m not in features]:
            raise ValueError(f"side '{side}' needs the features of {missing}; there are {list(features)}")
        like = features[members[0]].pooled  # of which len() would fix the number of rows in an ONNX graph
        h, mask = [], []
        for m, width in self.widths.items():
            if m in members:
                there = like.new_ones(like.shape[0], dtype=torch.bool) if present is None else present[m]
                h.append(features[m].pooled.where(there[:, None], 0))
                mask.append(there.to(like.dtype))
            else:
                h.append(like.new_zeros(like.shape[0], width))
                mask.append(like.new_zeros(like.shape[0]))
        return self.readout(self.project(torch.cat([*h, torch.stack(mask, 1)], 1)))
