"""ConFu's fusion (arXiv 2511.21331): an MLP for each fused side reads its members' features before their projection.

The trap: the paper's last LeakyReLU shrinks every negative coordinate fivefold, so the unit sphere is used unevenly.
`final_activation: false` leaves it away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from workbench.types import Features, Fusion, Side

__all__ = ["MLP"]


class MLP(Fusion):
    """Computes z_ij = MLP_ij([h_i ; h_j]): linear, ReLU, dropout, linear, LeakyReLU(.2), dropout.

    Sides of the same members share one MLP, however their views are combined.

    Args:
        hidden: units of the hidden layer
        dropout: probability of the dropout after each activation
        final_activation: end with LeakyReLU(.2) and dropout, as published
        masking: probability with which each number that a fusion reads is masked in training. The paper's appendix B.3
            is said to mask a part of what is fused; in which way we have not seen, so that this is our reading

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
        final_activation: bool = True,
        masking: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ):
        super().__init__()
        self.masking = nn.Dropout(masking)
        self.mlps = nn.ModuleDict()
        for side in sides:
            if missing := [m for m in side.members if m not in widths]:
                raise ValueError(f"side '{side}' fuses {missing}, but the encoders are {list(widths)}")
            self.mlps["+".join(side.members)] = nn.Sequential(
                nn.Linear(sum(widths[m] for m in side.members), hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, dim),
                *([nn.LeakyReLU(0.2), nn.Dropout(dropout)] if final_activation else []),
            )

    def forward(
        self, side: Side, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]] | None = None
    ) -> Float[Tensor, "n d"]:
        """Fuse n rows to [n, dim]; a member that a row lacks (`present` is False) counts as zeros.

        Raises ValueError when the features of a member are missing.
        """
        members = Side.parse(side).members
        if missing := [m for m in members if m not in features]:
            raise ValueError(f"side '{side}' needs the features of {missing}; there are {list(features)}")
        h = [features[m].pooled for m in members]
        if present is not None:
            h = [x.where(present[m][:, None], 0) for m, x in zip(members, h, strict=True)]
        return self.mlps["+".join(members)](self.masking(torch.cat(h, dim=1)))
