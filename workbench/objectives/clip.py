"""CLIP: symmetric InfoNCE between every pair of modalities (Radford et al. 2021; CMC, Tian et al. 2020)."""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

from workbench.terms import Scale, Term, Terms

__all__ = ["CLIP"]


class CLIP(Terms):
    """sum_{i<j} 1/2 [CE(s U W^T) + CE(s W U^T)], the sum over pairs of modalities.

    CLIP (arXiv 2103.00020) at two modalities, from where several are taken pair by pair; time 4 M (M - 1) B^2 d, memory
    M B d. It sees what pairs tell, and provably nothing of what only three modalities together do.

    Args:
        scale: factor on cosines: {init, learn, max}; init is one over the temperature.
        positives: how several views and captions are contrasted; pairwise gives each its own softmax.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        scale: Scale = Scale(),
        positives: Literal["pairwise", "mean", "logsum", "each"] = "pairwise",
    ) -> None:
        super().__init__(
            modalities, [Term(between=pair, positives=positives) for pair in combinations(modalities, 2)], scale
        )
