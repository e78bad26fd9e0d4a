"""GRAM: the volume spanned by all modalities' embeddings takes the place of the cosine (Cicchetti et al. 2024).

The trap: a volume is a square root, and where embeddings coincide its gradient is infinite times zero. Nor can
float32 sums of products give the determinant of nearly equal embeddings: at eight modalities nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.objectives._volume import VolumeContrast
from workbench.terms import Scale

__all__ = ["GRAM"]

EPS = 1e-6
"""on the diagonal of G, so that the volume is positive and has a gradient; float32 rounds its entries by 1e-7"""


class GRAM(VolumeContrast):
    """1/2 [CE over j + CE over i] of logits_ij = -s sqrt(det(G_ij + eps)), label smoothing .1.

    G_ij holds the inner products of anchor i and the other modalities of sample j (arXiv 2412.11959). Its root is the
    volume of the others times the anchor's distance from their span, sqrt(det C_j) sqrt(|x_i|^2 - |Q_j x_i|^2), with an
    orthonormal basis Q_j by Cholesky. Time 6 (M - 1) B^2 d, memory M B^2 numbers, where B^2 determinants take B^2 M^3
    and B^2 M^2. Two modalities or more; with two the volume is |sin| of their angle, so that opposite embeddings match
    as well as equal ones do: it is not CLIP.

    Args:
        anchor: the modality that meets sets of all others, the text in the paper; the first one by default.
        scale: factor on volumes: {init, learn, max}; init is one over the temperature.
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
        if len(modalities) < 2:
            raise ValueError(f"gram spans a volume with two modalities or more, the model has {list(modalities)}")
        super().__init__(modalities, anchor, scale, label_smoothing)

    def volume(self, anchor: Float[Tensor, "m d"], others: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, "m n"]:
        """Compute sqrt(det(G + eps)) of every anchor with every set of others."""
        rows = torch.stack(list(others), 1).double()  # n x (M - 1) x d: few, so precision is cheap
        eye = torch.eye(len(others), dtype=rows.dtype, device=rows.device)
        L = torch.linalg.cholesky_ex(rows @ rows.mT + EPS * eye).L  # the other one reads an error code back to the host
        basis = torch.linalg.solve_triangular(L, rows, upper=False).to(anchor.dtype)
        spanned = L.diagonal(dim1=1, dim2=2).prod(1).to(anchor.dtype)
        beyond = anchor.square().sum(1) + EPS - (basis @ anchor.T).square().sum(1)  # n x m, at least eps
        return (spanned[:, None] * beyond.clamp(min=EPS).sqrt()).T
