"""ConFu, "The More, the Merrier" (arXiv 2511.21331): fused pairs of modalities meet the third, beside all pairs."""

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

from pydantic import Field

from workbench.terms import Scale, Term, Terms

__all__ = ["ConFu"]


class ConFu(Terms):
    """L = (1 - lambda) sum_{i<j} NCE(z_i, z_j) + lambda sum_{i<j, k} NCE(z_ij, z_k), the sum form.

    Args:
        lambda: share of the fused terms; 0 is pairwise alignment alone, 1 fused terms alone.
        scale: factor on cosines: {init, learn, max}; the paper keeps the temperature at 0.07.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        lambda_: Annotated[float, Field(ge=0, le=1)] = 0.5,
        scale: Scale = Scale(learn=False),
    ) -> None:
        if len(modalities) < 3:
            raise ValueError(f"confu fuses two modalities to meet a third, the model has {list(modalities)}: use clip")
        pairs = list(combinations(modalities, 2))
        plain = [Term(between=pair, weight=1 - lambda_) for pair in pairs]
        fused = [Term(between=("+".join(p), m), weight=lambda_) for p in pairs for m in modalities if m not in p]
        super().__init__(modalities, plain + fused, scale)
