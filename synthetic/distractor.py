"""XOR among distractions: b is now and then another sample's, and there may be a fourth modality that knows nothing.

Wrong pairs are what web data is made of. Their trap: a swapped b is right by accident in one of 2^bits cases, so a
share q of swaps leaves 1 - q + q/2^bits of the samples intact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synthetic.theory.joint import Joint, check_outcomes, outcomes
from synthetic.theory.truth import Truth
from synthetic.world.bits import Bits

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["Distractor"]


class Distractor:
    """c = a xor b, and with probability q the b that is shown is another sample's; predict c from the others.

    With K = 2^bits and z = 1 - q + q/K: every pair has I = 0, TC = ln K + z ln z + (K - 1)(q/K) ln(q/K), Bayes
    accuracy z.

    Args:
        bits: bits of each modality, 1 to 6, or 1 to 5 with a fourth one.
        swap: q, probability that b is swapped, 0 to 1.
        fourth: add a modality d that is independent of all others.
    """

    target: str = "c"

    def __init__(self, *, bits: int = 3, swap: float = 0.2, fourth: bool = False) -> None:
        if not 0 <= swap <= 1:
            raise ValueError(f"swap ({swap}) is the share of swapped samples: give a number from 0 to 1")
        self.swap = swap
        self.modalities: tuple[str, ...] = ("a", "b", "c", "d") if fourth else ("a", "b", "c")
        self.world = Bits(bits)
        self.codes: dict[str, int] = dict.fromkeys(self.modalities, self.world.size)
        self.shapes: dict[str, tuple[int, ...]] = dict.fromkeys(self.modalities, self.world.shape)
        check_outcomes(*self.codes.values())

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        a, b, other, d = torch.randint(self.world.size, (4, n), generator=generator)
        swapped = torch.rand(n, generator=generator) < self.swap
        codes = {"a": a, "b": torch.where(swapped, other, b), "c": a ^ b, "d": d}
        return {m: codes[m] for m in self.modalities}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n bits"]:
        return self.world(codes)

    def joint(self) -> Joint:
        size = self.world.size
        columns = dict(zip(self.modalities, outcomes(*self.codes.values()), strict=True))
        intact = columns["a"] ^ columns["b"] == columns["c"]
        probability = ((1 - self.swap) * intact + self.swap / size) / size ** (len(columns) - 1)
        return Joint.merge(self.codes, columns, probability)

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("distractor", self.joint(), self.target, batch)
