"""A hub: pairs of images and texts, pairs of images and sounds, and never a text beside a sound.

Text and sound know the same fine symbol, the image only its coarse part. Aligned through the image they meet where the
image can tell, and no further: that is ImageBind's emergent alignment, and its bound.
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

__all__ = ["Hub"]


class Hub:
    """y and w uniform and independent; image = y, text = audio = (y, w); predict the audio from the text alone.

    I(text; audio) = ln(Ky Kw), of which the image reaches ln Ky: emergent top-1 accuracy 1/Kw in expectation, Bayes 1.

    Args:
        coarse: Ky, symbols that the image tells apart.
        fine: Kw, symbols of the rest.
        paired: show all three together, instead of half of the samples without text and half without audio.
    """

    modalities: tuple[str, ...] = ("image", "text", "audio")
    target: str = "audio"
    given: tuple[str, ...] = ("text",)

    def __init__(self, *, coarse: int = 8, fine: int = 4, paired: bool = False) -> None:
        check_outcomes(coarse, fine)
        self.coarse, self.fine = coarse, fine
        self.worlds = {"image": Symbols(coarse), **dict.fromkeys(("text", "audio"), Symbols(coarse * fine))}
        self.codes = {m: world.size for m, world in self.worlds.items()}
        self.shapes = {m: world.shape for m, world in self.worlds.items()}
        pairs = {("image", "text"): 0.5, ("image", "audio"): 0.5}
        self.seen: dict[tuple[str, ...], float] = {self.modalities: 1.0} if paired else pairs

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        both = torch.randint(self.coarse * self.fine, (n,), generator=generator)
        return {"image": both // self.fine, "text": both, "audio": both}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n size"]:
        return self.worlds[modality](codes)

    def joint(self) -> Joint:
        (both,) = outcomes(self.coarse * self.fine)
        columns = {"image": both // self.fine, "text": both, "audio": both}
        return Joint.merge(self.codes, columns, np.full(len(both), 1 / len(both)))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("hub", self.joint(), self.target, batch, given=self.given, seen=self.seen)
