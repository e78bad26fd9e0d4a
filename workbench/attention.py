"""The block of a small transformer whose tokens need not all be real, for ITO's fusion and the encoder of sequences.

The trap is the mask: a softmax over nothing is NaN. So a key that is not real gets a float -inf, and a row without any
real token attends to all of its tokens, which `mask_of` sees to. A bool mask would mean "attend" to one attention of
torch and "ignore" to the other.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def mask_of(real: Bool[Tensor, "n l"], like: Tensor) -> Float[Tensor, "n l"]:
    """Make the mask that `Block` takes, in the type of `like`: 0, or -inf at a token that is not real."""
    readable = real | ~real.any(dim=1, keepdim=True)
    return torch.zeros(real.shape, dtype=like.dtype, device=like.device).masked_fill(~readable, float("-inf"))


def mean_of_real(x: Float[Tensor, "n l d"], real: Bool[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    """Average the real tokens of each row; a row without any gives zeros."""
    return x.where(real[..., None], 0).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)


class Block(nn.Module):
    """Adds attention and an MLP to the residual stream, each behind a LayerNorm.

    Weights are drawn as in CLIP's text transformer (Radford et al. 2021): the more layers add to the stream, the
    smaller is what each adds.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float, layers: int):
        super().__init__()
        hidden = round(mlp_ratio * dim)
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        added = dim**-0.5 * (2 * layers) ** -0.5
        for linear, std in (self.qkv, dim**-0.5), (self.out, added), (self.up, (2 * dim) ** -0.5), (self.down, added):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Float[Tensor, "n l d"], mask: Float[Tensor, "n l"], rows: slice = slice(None)
    ) -> Float[Tensor, "n rows d"]:
        """Let the tokens at `rows` attend to all; returns those. `mask` is 0, or -inf at a token that is not real."""
        qkv = self.qkv(self.attention_norm(x))
        q, k, v = rearrange(qkv, "n l (three h c) -> three n h l c", three=3, h=self.heads)
        bias = mask[:, None, None].to(q.dtype)
        attended = F.scaled_dot_product_attention(q[:, :, rows], k, v, attn_mask=bias)
        x = x[:, rows] + self.dropout(self.out(rearrange(attended, "n h l c -> n l (h c)")))
        return x + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))))
