"""PID-Gaussian: redundancy and uniqueness in linear Gaussian inputs, for a label that neither input gives alone.

After FactorCL's synthetic data (arXiv 2306.05268). The trap: when both inputs hold the same shared latents without
noise, their information is infinite and no loss has a floor; a correlation below 1 makes it finite.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.truth import Truth

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PIDGaussian"]


class PIDGaussian:
    """Latents c (shared), z1 and z2 (unique) are standard normal; first = Q1 [c, z1], second = Q2 [c', z2] with fixed
    orthogonal maps, c' a copy of c of correlation rho. The label, never shown, is the sign of the sum of all
    d12 + d1 + d2 entries of c, z1 and z2.

    I(first; second) = -d12/2 ln(1 - rho^2). Bayes accuracy 1: `first` has c and z1 exactly, `second` has z2. Alone an
    input is right with probability 1/2 + asin(r)/pi, r the correlation of the sum with its best estimate:
    r^2 = (d12 + d1) / (d12 + d1 + d2) for `first` (.8251 at 10, 6, 6), (rho^2 d12 + d2) / (d12 + d1 + d2) for `second`.
    I(label; input) = ln 2 - E h(Phi(r s / sqrt(1 - r^2))), s standard normal. There is no table of codes here, so no
    optimum of a loss at a finite batch is known and none is claimed.

    Args:
        shared: d12, entries of c.
        first: d1, entries of z1.
        second: d2, entries of z2.
        correlation: rho, of the two copies of c, 0 to 1.
        world: seed of the maps.
    """

    modalities: tuple[str, ...] = ("first", "second")
    target: str = "label"

    def __init__(
        self, *, shared: int = 10, first: int = 6, second: int = 6, correlation: float = 0.8, world: int = 0
    ) -> None:
        if min(shared, first, second) < 1:
            raise ValueError(f"shared ({shared}), first ({first}) and second ({second}) count latents: give 1 or more")
        if not 0 <= correlation <= 1:
            raise ValueError(f"correlation ({correlation}) of the shared latents must be from 0 to 1")
        self.shared, self.unique, self.correlation = shared, {"first": first, "second": second}, correlation
        self.codes = {"label": 2}
        self.shapes = {m: (shared + d,) for m, d in self.unique.items()}
        generator = torch.Generator().manual_seed(world)
        self.maps = {
            m: torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q.float()
            for m, (d,) in self.shapes.items()
        }

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw latents of both inputs [n, d] and labels [n]."""
        sizes = [self.shared, self.unique["first"], self.unique["second"], self.shared]
        c, z1, z2, noise = torch.randn(n, sum(sizes), generator=generator).split(sizes, dim=1)
        copy = self.correlation * c + math.sqrt(1 - self.correlation**2) * noise
        label = torch.cat([c, z1, z2], dim=1).sum(1) > 0
        return {"first": torch.cat([c, z1], dim=1), "second": torch.cat([copy, z2], dim=1), "label": label.long()}

    def observe(self, modality: str, codes: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return codes @ self.maps[modality].T

    def joint(self) -> None:
        """Return None: the inputs are continuous, so there is no table of outcomes."""

    def truth(self, batch: int = 256) -> Truth:
        strength = {m: math.sqrt(square) for m, square in self._squares().items()}
        rest = 1 - self.correlation**2
        shared = -self.shared / 2 * math.log(rest) if rest > 0 else None
        return Truth(
            task="pid-gaussian",
            target=self.target,
            modalities=self.modalities,
            given=self.modalities,
            pairwise_information={"first,second": shared}
            | {f"{m},label": information_of_sign(r) for m, r in strength.items()},
            total_correlation=shared,
            bayes_accuracy=1.0,
            best_single_accuracy=max(0.5 + math.asin(r) / math.pi for r in strength.values()),
            chance=0.5,
            majority=0.5,
            batch=batch,
            seen={self.modalities: 1.0},
            joint=None,
        )

    def _squares(self) -> dict[str, float]:
        """Compute {input: r^2}, r the correlation of the sum with its best estimate from that input."""
        known = {
            "first": self.shared + self.unique["first"],
            "second": self.correlation**2 * self.shared + self.unique["second"],
        }
        return {m: variance / (self.shared + sum(self.unique.values())) for m, variance in known.items()}


def information_of_sign(r: float) -> float:
    """Compute I(sign(u); s) in nats of standard normal u and s with correlation r < 1, by the trapezoidal rule."""
    s = np.linspace(-12, 12, 4001)
    density = np.exp(-(s**2) / 2) / math.sqrt(2 * math.pi)
    slope = r / math.sqrt(2 - 2 * r**2)
    plus = np.array([0.5 * math.erfc(-slope * x) for x in s])
    minus = plus[::-1]  # 1 - plus, without losing digits where it is small
    surprise = sum(p * np.log(np.where(p > 0, p, 1)) for p in (plus, minus))
    return math.log(2) + float((density * surprise).sum() * (s[1] - s[0]))
