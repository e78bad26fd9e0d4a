"""ITO, "Images and Texts as One" (arXiv 2603.02767): multi-view alignment, and a fusion loss only while training."""

from collections.abc import Sequence
from typing import Literal

from pydantic import NonNegativeFloat

from workbench.terms import Scale, Term, Terms

__all__ = ["ITO"]


class ITO(Terms):
    """L = 1/(VT) sum_vt CLIP(u_v, w_t) + lambda NT-Xent(fused views), one learnable scale for both.

    The fused embeddings of a sample's views are each other's positives; every other sample's are negatives.
    "Images and Texts as One" (arXiv 2603.02767): the fusion module is there while training only. With V views and T
    captions (V the larger): time 8 V T B^2 d for alignment, 8 V^2 B^2 d (on a CPU 6) and the fusion of V B pairs for
    the other term; memory (2 V + T) B d. Two modalities.

    Args:
        lambda: weight of the fusion loss; 0 builds no fusion module. The paper uses 2.
        scale: factor on cosines: {init, learn, max}.
        views: fuse view v with caption v mod T (zip), or every view with every caption (all).
        detach: stop the gradient of the fusion loss at its tokens, positions or scale (a control of the paper's claim).
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        lambda_: NonNegativeFloat = 2.0,
        scale: Scale = Scale(),
        views: Literal["zip", "all"] = "zip",
        detach: tuple[Literal["tokens", "positions", "scale"], ...] = (),
    ) -> None:
        if len(modalities) != 2:
            raise ValueError(
                f"ito aligns two modalities, the model has {len(modalities)}: {list(modalities)}; use confu or terms"
            )
        first, second = modalities
        fused = f"{first}+{second}"
        align = Term(between=(first, second))
        fusion = Term(between=(fused, fused), positives="each", views=views, weight=lambda_, detach=detach)
        super().__init__(modalities, [align, fusion], scale)
