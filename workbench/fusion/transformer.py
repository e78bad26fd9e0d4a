"""ITO's fusion (arXiv 2603.02767): a small bidirectional transformer over the tokens of all members, for training only.

The trap is the mask. What is not real (padding, an absent modality) must not reach a read-out through keys, through a
query, or as NaN; so it is zeroed and its keys get a float -inf, and a row of nothing at all attends to its zeros. A bool
mask means "attend" to one attention of torch and "ignore" to the other, and in an addition silently 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from workbench.types import Features, Side

__all__ = ["Transformer"]


class Transformer(nn.Module):
    """Pre-norm self-attention over the concatenated tokens and their positions, the same weights for every side.

    Width is `dim`; there is no modality embedding. One sample never sees another. The read-out goes through a LayerNorm;
    its unit length is the model's business. Parameters: layers x (12 d^2 + 13 d) + 2 d at mlp_ratio 4.

    Args:
        layers: blocks of attention and MLP
        heads: attention heads; they divide the shared width
        mlp_ratio: hidden units of the MLP over the width
        dropout: of what each attention and MLP adds
        readout: 'cls' at the first member's class token, 'mean' over real tokens, 'token' at a learned one

    Raises ValueError when `heads` does not divide `dim`, when a member's tokens are missing, and for 'cls' without a
    class token.
    """

    kept_at_inference = False
    needs_tokens = True

    def __init__(
        self,
        sides: Sequence[Side],
        widths: Mapping[str, int],
        dim: int,
        *,
        layers: PositiveInt = 2,
        heads: PositiveInt = 8,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        readout: Literal["cls", "mean", "token"] = "cls",
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"fusion heads ({heads}) must divide model.dim ({dim})")
        for side in sides:
            if missing := [m for m in side.members if m not in widths]:
                raise ValueError(f"side '{side}' fuses {missing}, but the encoders are {list(widths)}")
        self.readout = readout
        self.token = nn.Parameter(torch.randn(dim) * 0.02) if readout == "token" else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, side: str, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]] | None = None
    ) -> Float[Tensor, "n d"]:
        """Rows in which a member is absent (`present` is False) are fused without its tokens."""
        members = Side.parse(side).members
        x, real = self._tokens(side, members, features, present)
        row = self._readout_row(side, [features[m] for m in members])
        mask = None
        if real is not None:
            x = x.where(real[..., None], 0)
            nothing = ~real.any(dim=1, keepdim=True)
            mask = torch.zeros_like(real, dtype=x.dtype).masked_fill(~(real | nothing), float("-inf"))
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask, row)  # the last block only has to be computed where it is read
        if self.readout == "mean":
            weight = torch.ones_like(x[..., :1]) if real is None else real[..., None].to(x.dtype)
            x = (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        return self.norm(x.squeeze(1))
