"""SigLIP: a sigmoid judgement of every pair instead of a softmax over rows (Zhai et al. 2023)."""

from collections.abc import Sequence
from itertools import combinations

from workbench.terms import Scale, Term, Terms

__all__ = ["SigLIP"]


class SigLIP(Terms):
    """-1/B sum_ij log sigmoid(z_ij (s u_i.w_j + b)), summed over pairs of modalities.

    SigLIP (arXiv 2303.15343): every pair of rows is a decision of its own, so nothing is normalised over the batch, and
    the loss of one knowing nothing is ln B + (B - 1) ln(B / (B - 1)) a pair. Time 4 M (M - 1) B^2 d, memory M B d.

    Args:
        scale: factor on cosines: {init, learn, max}; the paper starts at 10.
        bias: initial bias; the paper starts at -10, so that the many negatives do not dominate the first steps.
    """

    def __init__(self, modalities: Sequence[str], *, scale: Scale = Scale(init=10.0), bias: float = -10.0) -> None:
        super().__init__(
            modalities, [Term(between=pair, loss="sigmoid") for pair in combinations(modalities, 2)], scale, bias
        )
