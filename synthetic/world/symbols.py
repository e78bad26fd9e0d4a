"""The plainest world of a code without bits: each symbol is a direction of its own, so that a linear encoder is a free
table of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class Symbols:
    """The codes 0 .. size - 1, each seen as a one-hot row. Raises ValueError below two symbols."""

    def __init__(self, size: int) -> None:
        if size < 2:
            raise ValueError(f"an alphabet of {size} says nothing: give at least 2 symbols")
        self.size = size
        self.shape = (size,)

    def __call__(self, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n size"]:
        return F.one_hot(codes, self.size).float()
