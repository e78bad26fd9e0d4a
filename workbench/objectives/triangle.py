"""TRIANGLE: the area between three modalities' embeddings takes the place of the cosine (Cicchetti et al. 2025).

The trap: three points on a line have no area, however far apart they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.objectives._volume import VolumeContrast
from workbench.terms import Scale
from workbench.types import Views

__all__ = ["TRIANGLE"]


class TRIANGLE(VolumeContrast):
    """1/2 [CE over j + CE over i] of logits_ij = -s/2 (|u|^2 |v|^2 - (u.v)^2), label smoothing .1.

    u = x_i - y_j and v = x_i - z_j are two sides of the triangle of anchor x_i and the others y_j, z_j: what stands
    there is twice its squared area, as in the authors' code (arXiv 2509.24734). By inner products alone:
    |u|^2 = |x|^2 + |y|^2 - 2 x.y, u.v = |x|^2 - x.y - x.z + y.z. Time 12 B^2 d, memory a few B^2, never B^2 d. Exactly
    three modalities.

    Args:
        anchor: the modality that meets pairs of the two others, the text in the paper; the first one by default.
        scale: factor on areas: {init, learn, max}; init is one over the temperature.
        label_smoothing: share of the target spread over all candidates.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        anchor: str | None = None,
        scale: Scale = Scale(),
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        if len(modalities) != 3:
            raise ValueError(
                f"triangle needs three modalities, the model has {len(modalities)}: {list(modalities)}; use "
                f"{'clip' if len(modalities) < 3 else 'gram'}"
            )
        super().__init__(modalities, anchor, scale, label_smoothing)

    def volume(self, anchor: Float[Tensor, "m d"], others: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, "m n"]:
        """Compute (|u|^2 |v|^2 - (u.v)^2) / 2 of every anchor with every pair of others."""
        y, z = others
        xy, xz, yz = anchor @ y.T, anchor @ z.T, (y * z).sum(1)
        xx = anchor.square().sum(1)[:, None]
        uu, vv = xx + y.square().sum(1) - 2 * xy, xx + z.square().sum(1) - 2 * xz
        return (uu * vv - (xx - xy - xz + yz).square()) / 2

    def score(self, query: Views, candidates: Views) -> Float[Tensor, "q c"]:
        """Return minus the area between every candidate and the query's two modalities; of one modality, the cosine."""
        if len(query) > 1:
            return super().score(query, candidates)
        (view,), (target,) = query.values(), candidates.values()
        return view.z[:, 0] @ target.z[:, 0].T
