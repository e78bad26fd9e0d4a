"""Synergy: XOR switched on for a share of the samples. The task of Symile's and ConFu's first figures.

The switch is one coin per sample, not per bit. Its trap: a and c are dependent (c = a when the switch is off), so
pairwise losses fall below ln B here while the target b stays independent of each of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint
from synthetic.theory.truth import Truth
from synthetic.world.bits import Bits

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["Synergy"]


class Synergy:
    """a, b uniform and independent, i ~ Bernoulli(p), c = a xor b if i else a; predict b from (a, c). Each is seen
    as its vector of bits (Symile, arXiv 2411.01053; ConFu, arXiv 2511.21331).

    With K = 2^bits, q = 1 - p + p/K and h the entropy of a coin: I(a; b) = I(b; c) = 0,
    I(a; c) = ln K + q ln q + (K - 1) (p/K) ln(p/K), TC = ln K - (1 - 1/K) h(p), Bayes accuracy p + (1 - p)/K.

    Args:
        bits: bits of each modality, 1 to 8.
        p: probability that a sample is synergistic, 0 to 1.
    """

    modalities: tuple[str, ...] = ("a", "b", "c")
    target: str = "b"

    def __init__(self, *, bits: int = 3, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p ({p}) is the share of synergistic samples: give a number from 0 to 1")
        self.p = p
        self.world = Bits(bits)
        self.codes = dict.fromkeys(self.modalities, self.world.size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        a, b = torch.randint(self.world.size, (2, n), generator=generator)
        switch = torch.rand(n, generator=generator) < self.p
        return {"a": a, "b": b, "c": torch.where(switch, a ^ b, a)}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        return self.world(codes)

    def joint(self) -> Joint:
        size = self.world.size
        a, b, switch = np.indices((size, size, 2)).reshape(3, -1)
        c = np.where(switch == 1, a ^ b, a)
        probability = np.where(switch == 1, self.p, 1 - self.p) / size**2
        return Joint.merge(self.codes, {"a": a, "b": b, "c": c}, probability)

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("synergy", self.joint(), self.target, batch)
