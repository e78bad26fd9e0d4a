"""ITO's fusion (arXiv 2603.02767): a small transformer reads the tokens of all members; it exists only in training.

The trap is the mask. A token that is not real (padding, an absent modality) must not reach the read-out through a key
or a query, nor as NaN. So its vector is set to zero, and `workbench.attention` masks its key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.attention import Block, mask_of, mean_of_real
from workbench.types import Features, Fusion, Side

__all__ = ["Transformer"]


class Transformer(Fusion):
    """Applies pre-norm self-attention to the members' tokens, plus their positions, one member behind the other.

    The weights are the same for every side and the width is `dim`. What is read out goes through a LayerNorm. There are
    layers x (12 d^2 + 13 d) + 2 d parameters at mlp_ratio 4, and d a modality with type embeddings.

    Args:
        layers: blocks of attention and MLP
        heads: attention heads; they divide the shared width
        mlp_ratio: hidden units of the MLP, as a multiple of the width
        dropout: probability of the dropout on what each attention and each MLP adds
        type_embedding: add a learned vector of each modality to its tokens; the paper has none, so that its fusion can
            tell modalities apart only by where their tokens lie
        readout: 'cls' reads the first class token of a member, 'mean' the mean of real tokens, 'token' a learned one

    Raises ValueError when `heads` does not divide `dim`, when a member has no tokens, and for 'cls' when none has a
    class token.
    """

    kept_at_inference = False
    needs_tokens, reads_padding = True, False

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
        type_embedding: bool = False,
        readout: Literal["cls", "mean", "token"] = "cls",
    ):
        super().__init__()
        if dim % heads:
            fits = max(h for h in range(1, heads) if dim % h == 0)
            raise ValueError(f"fusion heads ({heads}) must divide model.dim ({dim}): set model.fusion.heads={fits}")
        for side in sides:
            if missing := [m for m in side.members if m not in widths]:
                raise ValueError(f"side '{side}' fuses {missing}, but the encoders are {list(widths)}")
        self.readout, self.needs_class_token = readout, readout == "cls"
        self.token = nn.Parameter(0.02 * torch.randn(dim)) if readout == "token" else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        fused = dict.fromkeys(m for side in sides for m in side.members) if type_embedding else ()
        self.types = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(dim)) for m in fused})

    def repeated(self) -> list[nn.Module]:
        """List the blocks."""
        return list(self.blocks)

    def forward(
        self, side: Side, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]] | None = None
    ) -> Float[Tensor, "n d"]:
        """Fuse n rows to [n, dim]; of a member that a row lacks (`present` is False) no token is read.

        Raises ValueError when a member has no tokens.
        """
        members = Side.parse(side).members
        if missing := [m for m in members if m not in features or features[m].tokens is None]:
            raise ValueError(
                f"side '{side}' needs the tokens of {missing}: use encoders that give them, or fusion 'mlp'"
            )
        x, real = self._tokens({m: features[m] for m in members}, present or {})
        rows = self._rows(side, [features[m] for m in members])
        mask = mask_of(real, x)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask, rows)  # the last block is only computed where it is read
        if self.readout == "mean":
            return self.norm(mean_of_real(x, real))
        return self.norm(x.squeeze(1))

    def _tokens(
        self, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]]
    ) -> tuple[Float[Tensor, "n l d"], Bool[Tensor, "n l"]]:
        """Join the members' tokens, positions added; returns them with a mask that is True where a token is real."""
        tokens, real = [], []
        for member, f in features.items():
            assert f.tokens is not None
            x = f.tokens if f.positions is None else f.tokens + f.positions
            tokens.append(x + self.types[member] if member in self.types else x)
            mask = f.tokens.new_ones(f.tokens.shape[:2], dtype=torch.bool) if f.mask is None else f.mask
            real.append(mask & present[member][:, None] if member in present else mask)
        x, mask = torch.cat(tokens, dim=1), torch.cat(real, dim=1)
        x = x.where(mask[..., None], 0)
        if self.token is not None:
            x = torch.cat([self.token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
            mask = F.pad(mask, (1, 0), value=True)
        return x, mask

    def _rows(self, side: Side, members: Sequence[Features]) -> slice:
        """Find the rows that the read-out needs. Raises ValueError when it needs a class token, and there is none."""
        if self.readout == "mean":
            return slice(None)
        if self.readout == "token":
            return slice(0, 1)
        start = 0
        for f in members:
            assert f.tokens is not None
            if f.cls is not None:
                return slice(start + f.cls, start + f.cls + 1)
            start += f.tokens.shape[1]
        raise ValueError(f"no member of side '{side}' has a class token: set readout to 'mean' or 'token'")
