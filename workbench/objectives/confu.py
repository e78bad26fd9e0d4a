"""ConFu, "The More, the Merrier" (arXiv 2511.21331): fused pairs of modalities meet the third, beside all pairs."""

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field

from workbench.terms import Scale, Term, Terms

__all__ = ["ConFu"]


class ConFu(Terms):
    """L = (1 - lambda) sum_{i<j} NCE(z_i, z_j) + lambda sum_{S, k not in S} NCE(z_S, z_k), the sum form.

    S runs over the pairs of modalities (arXiv 2511.21331), or over all subsets of two or more (ours): with four or more
    modalities, pairs provably miss what only three together tell of a fourth. With M modalities there are
    M (M - 1)^2 / 2 terms for pairs, and M (2^(M-1) - 1) - M (M - 1) / 2 for subsets: 6, 22, 65, 988 at M = 3, 4, 5, 8.
    Time 8 B^2 d a term and a fusion of B rows for every S; memory B d a side. Three modalities or more.

    Args:
        lambda: share of the fused terms; 0 is pairwise alignment alone, 1 fused terms alone.
        fuse: pairs, or subsets of two or more; the same for three modalities. `confu_chain` samples the subsets.
        scale: factor on cosines: {init, learn, max}; the paper keeps the temperature at 0.07.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        lambda_: Annotated[float, Field(ge=0, le=1)] = 0.5,
        fuse: Literal["pairs", "subsets"] = "pairs",
        scale: Scale = Scale(learn=False),
    ) -> None:
        if len(modalities) < 3:
            raise ValueError(f"confu fuses two modalities to meet a third, the model has {list(modalities)}: use clip")
        sizes = range(2, len(modalities)) if fuse == "subsets" else (2,)
        plain = [Term(between=pair, weight=1 - lambda_) for pair in combinations(modalities, 2)]
        fused = [
            Term(between=("+".join(subset), m), weight=lambda_)
            for size in sizes
            for subset in combinations(modalities, size)
            for m in modalities
            if m not in subset
        ]
        super().__init__(modalities, plain + fused, scale)
