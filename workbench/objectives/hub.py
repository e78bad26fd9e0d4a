"""Hub (ImageBind, Girdhar et al. 2023): every modality is contrasted with one, the hub; the others meet through it.

The trap: what two modalities share and the hub does not have is never seen, so retrieval between them is bounded.
"""

from collections.abc import Sequence

from workbench.terms import Scale, Term, Terms

__all__ = ["Hub"]


class Hub(Terms):
    """sum_{j != hub} 1/2 [CE(s U_hub W_j^T) + CE(s W_j U_hub^T)], the M - 1 pairs that have the hub.

    ImageBind (arXiv 2305.05665), where images are the hub. It takes two modalities or more; with two it is
    CLIP. Time 8 (M - 1) B^2 d, memory M B d.

    Args:
        hub: the modality that all others are contrasted with; the first one by default.
        scale: factor on cosines: {init, learn, max}; init is one over the temperature.
    """

    def __init__(self, modalities: Sequence[str], *, hub: str | None = None, scale: Scale = Scale()) -> None:
        if len(modalities) < 2:
            raise ValueError(f"hub contrasts two modalities or more, the model has {list(modalities)}")
        center = modalities[0] if hub is None else hub
        if center not in modalities:
            raise ValueError(f"hub {hub!r} is no modality of the model: set it to one of {list(modalities)}")
        super().__init__(modalities, [Term(between=(center, m)) for m in modalities if m != center], scale)
