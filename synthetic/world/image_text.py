"""The image-text world: a class is an outline, seen as a picture of it or as one of its words.

A code is class + classes * nuisance, both in one integer, so that the same code always looks the same. The nuisance of
a picture is its position, size, angle and colour, that of a word which synonym it is; codes below the number of classes
are the plain white picture and the outline's name. The trap: the alphabet of a code is its classes, so compare codes
modulo their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synthetic.world.outlines import OUTLINES
from synthetic.world.pictures import COLOURS, NUISANCES, Pictures
from synthetic.world.words import NUM_SYNONYMS, words

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8


class ImageText:
    """Which outlines the classes are, and in which order, is drawn from the seed `world`.

    Raises ValueError unless 2 <= classes <= 10 and 1 <= colours <= 10.
    """

    def __init__(self, classes: int, colours: int, size: int, world: int) -> None:
        if not 2 <= classes <= len(OUTLINES):
            raise ValueError(f"classes ({classes}) must be between 2 and {len(OUTLINES)}: each needs its own outline")
        if not 1 <= colours <= len(COLOURS):
            raise ValueError(f"colours ({colours}) must be between 1 (white) and {len(COLOURS)}")
        self.classes = classes
        self.nuisances = {"image": NUISANCES * colours, "text": NUM_SYNONYMS}
        self.pictures = Pictures(size)
        self.outlines = torch.randperm(len(OUTLINES), generator=torch.Generator().manual_seed(world))[:classes]

    def dress(self, modality: str, of_class: Int64[Tensor, " n"], generator: torch.Generator) -> Int64[Tensor, " n"]:
        """Draw codes of these classes, each with a nuisance of its own."""
        return of_class + self.classes * torch.randint(self.nuisances[modality], of_class.shape, generator=generator)

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> UInt8[Tensor, "n size size 3"] | list[str]:
        outline, nuisance = self.outlines[codes % self.classes], codes // self.classes
        if modality == "text":
            return words(outline, nuisance)
        return self.pictures(outline, nuisance // NUISANCES, torch.zeros_like(outline), nuisance % NUISANCES)
