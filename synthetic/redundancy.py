"""Redundancy: every modality is a noisy copy of one hidden symbol. The control that pairwise objectives must pass.

Its trap is retrieval: one modality predicts another only as well as the noise of both allows, and the hidden symbol,
never shown, is better known than either of its copies.
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

__all__ = ["Redundancy"]


class Redundancy:
    """y uniform on K symbols, hidden; each modality shows y, or with probability e another symbol; predict the last
    modality from the others.

    With D = 2 e (1 - e) + e^2 (K - 2)/(K - 1) the probability that two modalities differ, every pair has
    I = ln K + (1 - D) ln(1 - D) + D ln(D/(K - 1)).

    Args:
        size: symbols, K; K^(M + 1) at most a million.
        noise: e, probability that a modality shows a wrong symbol, 0 to 1.
        modalities: how many, M, 3 to 8; they are called a, b, c, ...
    """

    def __init__(self, *, size: int = 16, noise: float = 0.1, modalities: int = 3) -> None:
        if not 3 <= modalities <= 8:
            raise ValueError(f"modalities ({modalities}) must be between 3 and 8")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise ({noise}) is the share of wrong symbols: give a number from 0 to 1")
        self.noise = noise
        self.modalities = tuple("abcdefgh"[:modalities])
        self.target = self.modalities[-1]
        self.world = Symbols(size)
        self.codes = dict.fromkeys((*self.modalities, "y"), size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)
        check_outcomes(*self.codes.values())

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        size, shape = self.world.size, (len(self.modalities), n)
        y = torch.randint(size, (n,), generator=generator)
        wrong = torch.rand(shape, generator=generator) < self.noise
        other = torch.randint(1, size, shape, generator=generator)  # any symbol but y, as a step from it
        shown = torch.where(wrong, y + other, y) % size
        return {**dict(zip(self.modalities, shown, strict=True)), "y": y}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n size"]:
        return self.world(codes)

    def joint(self) -> Joint:
        size = self.world.size
        *shown, y = outcomes(*self.codes.values())
        right = (np.stack(shown) == y).sum(0)
        wrong = len(shown) - right
        probability = (1 - self.noise) ** right * (self.noise / (size - 1)) ** wrong / size
        return Joint.merge(self.codes, dict(zip(self.codes, (*shown, y), strict=True)), probability)

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("redundancy", self.joint(), self.target, batch, modalities=self.modalities)
