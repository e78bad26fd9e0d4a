"""ConFu's fusion (arXiv 2511.21331): an MLP per fused side, on its members' features before their projection.

The trap: a last LeakyReLU shrinks every negative coordinate fivefold, so the unit sphere is used unevenly; it is the
paper's, and an option.
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
    """z_ij = MLP_ij([h_i ; h_j]): linear, ReLU, dropout, linear, LeakyReLU(.2), dropout.

    Sides of the same members share one MLP, however their views are combined. `widths` are those of `pooled`.

    Args:
        hidden: units of the hidden layer
        dropout: after each activation
        final_activation: LeakyReLU(.2) and dropout on the output, as published

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
        final_activation: bool = True,
    ):
        super().__init__()
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
        """Rows in which a member is absent (`present` is False) are fused as if its features were zero."""
        members = Side.parse(side).members
        if missing := [m for m in members if m not in features]:
            raise ValueError(f"side '{side}' needs the features of {missing}; there are {list(features)}")
        h = [features[m].pooled for m in members]
        if present is not None:
            h = [x.where(present[m][:, None], 0) for m, x in zip(members, h, strict=True)]
        return self.mlps["+".join(members)](torch.cat(h, dim=1))
