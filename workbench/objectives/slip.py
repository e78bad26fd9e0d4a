"""SLIP: CLIP, and SimCLR between the views of one image (Mu et al. 2021), the closest ancestor of ITO's fusion loss."""

from collections.abc import Sequence

from pydantic import NonNegativeFloat

from workbench.terms import Scale, Term, Terms

__all__ = ["SLIP"]


class SLIP(Terms):
    """L = sum_{i<j} CLIP(z_i, z_j) + weight NT-Xent(views of one modality, through a head of its own).

    SLIP (arXiv 2112.12750) with the NT-Xent of SimCLR (arXiv 2002.05709) at temperature .1: a
    view's positive is the sample's other view, its negatives all views of all other samples. Every view of the image
    meets the caption; the paper gives CLIP a third, weaker view, and SimCLR's head is there a deep one with BatchNorm,
    which would mix samples: here it is linear. With V views of one of M modalities: time 8 (M (M - 1) / 2 V + V^2)
    B^2 d, memory (M + V) B d. Raises ValueError at the first step when the data gives a single view.

    Args:
        views_of: the modality with several views; the first one by default.
        weight: of the contrast between views; 0 leaves CLIP.
        scale: factor on cosines between modalities: {init, learn, max}.
        view_scale: the same between views; fixed at ten, one over the temperature.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        views_of: str | None = None,
        weight: NonNegativeFloat = 1.0,
        scale: Scale = Scale(),
        view_scale: Scale = Scale(init=10.0, learn=False),
    ) -> None:
        if len(modalities) < 2:
            raise ValueError(f"slip aligns two modalities or more, the model has {list(modalities)}")
        image = modalities[0] if views_of is None else views_of
        if image not in modalities:
            raise ValueError(f"views_of {views_of!r} is no modality of the model: set it to one of {list(modalities)}")
        align = [Term(between=(a, b)) for i, a in enumerate(modalities) for b in modalities[i + 1 :]]
        views = Term(between=(f"{image}@ssl", f"{image}@ssl"), positives="each", weight=weight, scale=view_scale)
        super().__init__(modalities, [*align, views], scale)
