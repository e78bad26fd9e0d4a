"""Trifeature: two pictures that share an outline; redundancy, uniqueness and synergy between two images.

After the bimodal Trifeature of CoMM (arXiv 2409.07402), with pictures of our own. Two differences from there: pairs are
drawn as they come, never only those that obey the synergistic rule, and a sample's pictures are rendered for it alone.
The trap: the rule holds for a tenth of the pairs, so always saying no is right for nine tenths; read balanced accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint
from synthetic.theory.truth import Truth
from synthetic.world.pictures import NUISANCES, Pictures

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8

__all__ = ["Trifeature"]

Label = Literal["redundancy", "uniqueness", "synergy"]


class Trifeature:
    """Pictures (s, c1, t1) and (s, c2, t2): one outline s, colours and textures of their own, all uniform and
    independent. The label is never shown:

        redundancy  s, in both pictures:                       I(label; first) = I(label; second) = ln K
        uniqueness  t1, the texture of the first:              I(label; first) = ln K, I(label; second) = 0
        synergy     1[c2 = rule(t1)], a fixed permutation:     0 from either, h(1/K) = .3251 from both at K = 10

    I(first; second) = ln K is the outline alone. Bayes accuracy 1 everywhere; synergy has balanced chance .5 and
    majority .9. All this and the optima of the losses are computed by enumeration of outlines, colours and textures.
    They hold for pictures: position, size and angle are drawn for each picture alone, independently of everything else,
    and hide nothing. They would not hold if the two pictures shared a nuisance, or two codes could look alike.

    A picture's code is outline + K colour + K^2 texture + K^3 nuisance: its alphabet is the codes modulo K^3.

    Args:
        label: what is to be predicted from both pictures.
        values: K, of each attribute, 2 to 10.
        size: pixels a side of the pictures, 32 or more; at 32 the finest textures are five pixels a period.
        world: seed of the rule.
    """

    modalities: tuple[str, ...] = ("first", "second")
    target: str = "label"
    kinds: dict[str, str] = {"first": "image", "second": "image"}  # noqa: RUF012

    def __init__(self, *, label: Label = "synergy", values: int = 10, size: int = 64, world: int = 0) -> None:
        if not 2 <= values <= 10:
            raise ValueError(f"values ({values}) must be from 2 to 10: there are ten outlines, colours and textures")
        self.label, self.values = label, values
        self.pictures = Pictures(size)
        self.rule = torch.randperm(values, generator=torch.Generator().manual_seed(world))
        self.codes = {"first": values**3, "second": values**3, "label": 2 if label == "synergy" else values}
        self.shapes = {"first": (), "second": ()}

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        s, c1, t1, c2, t2 = torch.randint(self.values, (5, n), generator=generator)
        nuisance = self.values**3 * torch.randint(NUISANCES, (2, n), generator=generator)
        first, second = (self._code(s, c, t) for c, t in ((c1, t1), (c2, t2)))
        return {"first": first + nuisance[0], "second": second + nuisance[1], "label": self._label(s, t1, c2)}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> UInt8[Tensor, "n size size 3"]:
        outline, colour, texture = (codes // self.values**place % self.values for place in range(3))
        return self.pictures(outline, colour, texture, codes // self.values**3)

    def joint(self) -> Joint:
        s, c1, t1, c2, t2 = torch.from_numpy(np.indices((self.values,) * 5).reshape(5, -1))
        columns = {"first": self._code(s, c1, t1), "second": self._code(s, c2, t2), "label": self._label(s, t1, c2)}
        probability = np.full(len(s), 1 / len(s))
        return Joint.merge(self.codes, {m: code.numpy() for m, code in columns.items()}, probability)

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("trifeature", self.joint(), self.target, batch, modalities=self.modalities)

    def _code(
        self, outline: Int64[Tensor, " n"], colour: Int64[Tensor, " n"], texture: Int64[Tensor, " n"]
    ) -> Int64[Tensor, " n"]:
        return outline + self.values * colour + self.values**2 * texture

    def _label(self, s: Int64[Tensor, " n"], t1: Int64[Tensor, " n"], c2: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        return {"redundancy": s, "uniqueness": t1, "synergy": (c2 == self.rule[t1]).long()}[self.label]
