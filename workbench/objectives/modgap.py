"""ModGap: CLIP, with true pairs drawn together and their centroids spread evenly (Grassucci et al., ICLR 2026).

It is the positive control of any claim about the modality gap: what measures a gap has to see this one close.
"""

from collections.abc import Sequence
from itertools import combinations

from pydantic import NonNegativeFloat

from workbench.terms import Scale, Term, Terms

__all__ = ["ModGap"]


class ModGap(Terms):
    """sum_{i<j} CLIP(z_i, z_j) + weight (mean |u - w|^2 + log mean exp(-2 |c - c'|^2)), c the centroid of a pair.

    "Closing the Modality Gap Aligns Group-Wise Semantics" (arXiv 2601.18525); centroids of different ids spread, and
    are as long as they are (the authors' code brings them to unit length). With two modalities as in the paper; more
    are taken pair by pair. With M modalities: time 8 M (M - 1) B^2 d, memory M B d.

    Args:
        weight: of what aligns and spreads, against the contrast; 0 leaves CLIP.
        scale: factor on cosines: {init, learn, max}; the authors fix it at one over .1 or learn it.
    """

    def __init__(self, modalities: Sequence[str], *, weight: NonNegativeFloat = 1.0, scale: Scale = Scale()) -> None:
        if len(modalities) < 2:
            raise ValueError(f"modgap aligns two modalities or more, the model has {list(modalities)}")
        contrast = [Term(between=pair) for pair in combinations(modalities, 2)]
        closing = [Term(between=pair, loss="align_uniform", weight=weight) for pair in combinations(modalities, 2)]
        super().__init__(modalities, [*contrast, *closing], scale)
