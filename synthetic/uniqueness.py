"""Uniqueness: the modalities share nothing, and the label is what one of them alone knows.

There is nothing to align, so every contrastive loss stays at its value without information. What is asked is whether an
embedding still tells the label: the loss is judged blind, the accuracy says what was kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint, check_outcomes, outcomes
from synthetic.theory.truth import Truth
from synthetic.world.symbols import Symbols

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["Uniqueness"]


class Uniqueness:
    """a, b, c uniform on K symbols and independent; the label y = a is never shown.

    Every pair of modalities has I = 0; I(y; a) = ln K; Bayes accuracy 1 from a, 1/K from the others.

    Args:
        size: symbols of each modality, K, 2 to 101.
    """

    modalities: tuple[str, ...] = ("a", "b", "c")
    target: str = "y"

    def __init__(self, *, size: int = 8) -> None:
        self.world = Symbols(size)
        self.codes = dict.fromkeys((*self.modalities, self.target), size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)
        check_outcomes(size, size, size)

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        a, b, c = torch.randint(self.world.size, (3, n), generator=generator)
        return {"a": a, "b": b, "c": c, "y": a}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n size"]:
        return self.world(codes)

    def joint(self) -> Joint:
        size = self.world.size
        a, b, c = outcomes(size, size, size)
        return Joint.merge(self.codes, {"a": a, "b": b, "c": c, "y": a}, np.full(len(a), 1 / len(a)))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("uniqueness", self.joint(), self.target, batch, modalities=self.modalities)
