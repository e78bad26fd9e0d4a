"""The plainest world: an encoder sees a code as the vector of its bits, so that linear encoders can solve the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class Bits:
    """The codes 0 .. 2^width - 1, each seen as `width` floats in {0, 1}, lowest bit first.

    Raises ValueError unless 1 <= width <= 8: truths list the support, which has 4^width rows for two free inputs.
    """

    def __init__(self, width: int) -> None:
        if not 1 <= width <= 8:
            raise ValueError(f"bits ({width}) must be between 1 and 8: the exact truth lists 4^bits outcomes")
        self.size: int = 2**width
        self.shape = (width,)

    def __call__(self, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        place = torch.arange(*self.shape, device=codes.device)
        return (codes[:, None] >> place & 1).float()
