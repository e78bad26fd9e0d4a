"""The world of M3's texts: one word in each of several languages, no two of them naming the same class."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class Sentences:
    """Code s is the s-th ordered choice of `words` different classes; it is seen as a one-hot row of classes for each
    language. Raises ValueError unless 2 <= words <= classes."""

    def __init__(self, classes: int, words: int) -> None:
        if not 2 <= words <= classes:
            raise ValueError(
                f"a text of {words} words on {classes} classes: its words name different classes, give 2 to {classes}"
            )
        self.shape = (words, classes)
        self.named: Int64[np.ndarray, "s words"] = np.array(list(permutations(range(classes), words)))
        """the class that each word names"""

    @property
    def size(self) -> int:
        return len(self.named)

    def __call__(self, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n words classes"]:
        named = torch.from_numpy(self.named).to(codes.device)
        return F.one_hot(named[codes], self.shape[1]).float()
