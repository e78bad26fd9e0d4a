"""Image-text XOR: a picture, a word and their sum. XOR for real image and text towers: its bridge to pretraining.

The trap: at first no pair and no fusion tells anything apart, so a loss falls fastest by making every embedding the
same; at a high scale or learning rate towers collapse within twenty steps and the run looks blind. Start at a low one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synthetic.theory.joint import Joint
from synthetic.theory.truth import Truth
from synthetic.world.image_text import ImageText

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, UInt8

__all__ = ["ImageTextXOR"]


class ImageTextXOR:
    """A picture of class i, a word for class j, and (i + j) mod K as a one-hot vector; i and j uniform and independent.

    Every pair has I = 0; TC = ln K; Bayes accuracy 1, chance 1/K. All this and the optima of the losses are computed on
    the classes. They hold for pictures and words: colour, position, size, angle and synonym are drawn independently of
    everything else and never hide the class, so the density ratio of any two groups of inputs is that of their classes.
    They would not hold if two classes could look alike, shared a word, or if a nuisance were tied to another modality.
    What no floor includes is that a tower learns classes from finitely many pictures.

    Args:
        classes: K, 2 to 10.
        colours: that a picture may have, 1 (white) to 10; each outline comes in all of them.
        size: pixels a side of the picture, 32 or more.
        world: seed of the classes' outlines.
    """

    modalities: tuple[str, ...] = ("image", "text", "sum")
    target: str = "sum"
    kinds: dict[str, str] = {"image": "image", "text": "text", "sum": "vector"}  # noqa: RUF012

    def __init__(self, *, classes: int = 5, colours: int = 1, size: int = 32, world: int = 0) -> None:
        self.world = ImageText(classes, colours, size, world)
        self.codes = dict.fromkeys(self.modalities, classes)
        self.shapes = {"image": (), "text": (), "sum": (classes,)}

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        i, j = torch.randint(self.world.classes, (2, n), generator=generator)
        dressed = {m: self.world.dress(m, c, generator) for m, c in (("image", i), ("text", j))}
        return {**dressed, "sum": (i + j) % self.world.classes}

    def observe(
        self, modality: str, codes: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n classes"] | UInt8[Tensor, "n size size 3"] | list[str]:
        if modality == "sum":
            return F.one_hot(codes, self.world.classes).float()
        return self.world.observe(modality, codes)

    def joint(self) -> Joint:
        size = self.world.classes
        i, j = np.indices((size, size)).reshape(2, -1)
        columns = {"image": i, "text": j, "sum": (i + j) % size}
        return Joint.merge(self.codes, columns, np.full(size**2, 1 / size**2))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("image-text-xor", self.joint(), self.target, batch)
