"""Image-text match: does the word name the picture? The question of an image-text matching head, with its exact answer.

The trap: half of the pairs match by design, so picture and word are dependent and a pairwise objective gains on them
(.51 nats at K = 10) without any of it telling whether they match.
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

__all__ = ["ImageTextMatch"]


class ImageTextMatch:
    """A picture of class i, a word for class j, and 1[i = j] as a one-hot vector; i is uniform, j = i for half of the
    samples and any other class for the rest.

    I(match; image) = I(match; text) = 0, I(match; image, text) = ln 2, and with K classes
    I(image; text) = ln K - h(1/2) - 1/2 ln(K - 1), .5108 at K = 10. Bayes accuracy 1, chance .5. All this and the
    optima of the losses are computed on the classes; why they hold for pictures and words is said at image-text-xor.

    Args:
        classes: K, 2 to 10.
        colours: that a picture may have, 1 (white) to 10; each outline comes in all of them.
        size: pixels a side of the picture, 32 or more.
        world: seed of the classes' outlines.
    """

    modalities: tuple[str, ...] = ("image", "text", "match")
    target: str = "match"
    kinds: dict[str, str] = {"image": "image", "text": "text", "match": "vector"}  # noqa: RUF012

    def __init__(self, *, classes: int = 10, colours: int = 1, size: int = 32, world: int = 0) -> None:
        self.world = ImageText(classes, colours, size, world)
        self.codes = {"image": classes, "text": classes, "match": 2}
        self.shapes = {"image": (), "text": (), "match": (2,)}

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        size = self.world.classes
        match = torch.randint(2, (n,), generator=generator)
        i, other = torch.randint(size, (n,), generator=generator), torch.randint(1, size, (n,), generator=generator)
        j = torch.where(match == 1, i, (i + other) % size)
        return {m: self.world.dress(m, c, generator) for m, c in (("image", i), ("text", j))} | {"match": match}

    def observe(
        self, modality: str, codes: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n 2"] | UInt8[Tensor, "n size size 3"] | list[str]:
        return F.one_hot(codes, 2).float() if modality == "match" else self.world.observe(modality, codes)

    def joint(self) -> Joint:
        size = self.world.classes
        i, j = np.indices((size, size)).reshape(2, -1)
        columns = {"image": i, "text": j, "match": (i == j).astype(int)}
        return Joint.merge(self.codes, columns, np.where(i == j, 0.5 / size, 0.5 / size / (size - 1)))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("image-text-match", self.joint(), self.target, batch)
