"""M3 in small: words in several languages, a sound that says which language counts, an image of what its word names.

Each pair leaves the image open: the text names several classes, the sound none. Symile's multilingual task (arXiv
2411.01053) without its pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthetic.theory.joint import Joint, check_outcomes, outcomes
from synthetic.theory.truth import Truth
from synthetic.world.sentences import Sentences
from synthetic.world.symbols import Symbols

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = ["M3Lite"]


class M3Lite:
    """text = w words that name w different classes of C, the l-th in language l; audio = a language; image = the class
    that the text names in it; predict the image from text and audio.

    I(image; text) = ln(C/w), I(image; audio) = I(text; audio) = 0, I(image; text, audio) = ln C; Bayes accuracy 1, and
    1/w from the text alone.

    Args:
        classes: C.
        languages: w, 2 to C; the C!/(C - w)! texts in w languages are a million at most.
    """

    modalities: tuple[str, ...] = ("text", "audio", "image")
    target: str = "image"

    def __init__(self, *, classes: int = 8, languages: int = 3) -> None:
        check_outcomes(*range(classes, classes - languages, -1), languages)
        self.texts = Sentences(classes, languages)
        self.worlds = {"text": self.texts, "audio": Symbols(languages), "image": Symbols(classes)}
        self.codes = {m: world.size for m, world in self.worlds.items()}
        self.shapes = {m: world.shape for m, world in self.worlds.items()}

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        text = torch.randint(self.codes["text"], (n,), generator=generator)
        audio = torch.randint(self.codes["audio"], (n,), generator=generator)
        return {"text": text, "audio": audio, "image": torch.from_numpy(self.texts.named)[text, audio]}

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        return self.worlds[modality](codes)

    def joint(self) -> Joint:
        text, audio = outcomes(self.codes["text"], self.codes["audio"])
        columns = {"text": text, "audio": audio, "image": self.texts.named[text, audio]}
        return Joint.merge(self.codes, columns, np.full(len(text), 1 / len(text)))

    def truth(self, batch: int = 256) -> Truth:
        return Truth.of("m3-lite", self.joint(), self.target, batch)
