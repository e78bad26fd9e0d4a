"""XOR with noise: each bit of the third modality is flipped now and then, so what is shared is less than what is seen.

The difficulty is a dial here: the nats to be learned go from bits ln 2 to 0 continuously. Its trap: past p = .5 the
bits agree in being wrong, and there is information again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint, check_outcomes, outcomes
from synthetic.theory.truth import Truth
from synthetic.world.bits import Bits

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["XORFlip"]


class XORFlip:
    """a, b uniform and independent, c = a xor b xor n with n ~ Bernoulli(p) for each bit; predict c from (a, b).

    Every pair has I = 0; TC = bits (ln 2 - h(p)), h the entropy of a coin; Bayes accuracy max(p, 1 - p)^bits.

    Args:
        bits: bits of each modality, 1 to 6.
        p: probability that a bit is flipped, 0 to 1.
    """

    modalities: tuple[str, ...] = ("a", "b", "c")
    target: str = "c"

    def __init__(self, *, bits: int = 3, p: float = 0.1) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p ({p}) is the share of flipped bits: give a number from 0 to 1")
        self.p = p
        self.world = Bits(bits)
        self.codes = dict.fromkeys(self.modalities, self.world.size)
        self.shapes = dict.fromkeys(self.modalities, self.world.shape)
        check_outcomes(*self.codes.values())

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        (bits,) = self.world.shape
        a, b = torch.randint(self.world.size, (2, n), generator=generator)
        flipped = torch.rand(n, bits, generator=generator) < self.p
        return {"a": a, "b": b, "c": a ^ b ^ (flipped << torch.arange(bits)).sum(1)}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        return self.world(codes)

    def joint(self) -> Joint:
        (bits,), size = self.world.shape, self.world.size
        a, b, noise = outcomes(size, size, size)
        flipped = (noise[:, None] >> np.arange(bits) & 1).sum(1)
        probability = self.p**flipped * (1 - self.p) ** (bits - flipped) / size**2
        return Joint.merge(self.codes, {"a": a, "b": b, "c": a ^ b ^ noise}, probability)

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("xor-flip", self.joint(), self.target, batch)
