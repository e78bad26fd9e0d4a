"""The tower of another field, weights and all: a second language, a second caption, a control's shuffled texts."""

from collections.abc import Mapping

from torch import Tensor

from workbench.types import Encoder, Features, Modality, Transform

__all__ = ["Shared"]


class Shared(Encoder):
    """Encodes as the encoder of another field does, which holds the weights: they are trained by both, and kept once.

    What the other is set to (image size, augmentation, a lock) holds here, too, and numbers of a vector are
    standardised by the training items of the other.

    Args:
        with: the field whose encoder it is; both are of one kind, shape and rate

    Raises ValueError where the model has no encoder of that name, or one that does not fit.
    """

    def __init__(self, modality: Modality, dim: int, *, with_: str) -> None:
        super().__init__()
        self.lender, self.width, self._needs = with_, dim, _needs(modality)
        self._holder: tuple[Encoder, ...] = ()  # a tuple hides it from torch, which would keep its weights twice

    def borrow(self, encoders: Mapping[str, Encoder], modalities: Mapping[str, Modality]) -> None:
        """Take the encoder of the other field out of those of a model. Raises ValueError where there is no fit one."""
        tower = encoders.get(self.lender)
        if tower is None or isinstance(tower, Shared):
            own = ", ".join(name for name, encoder in encoders.items() if not isinstance(encoder, Shared))
            raise ValueError(f"with: {self.lender} has no encoder of its own (there are: {own})")
        if self._needs != _needs(modalities[self.lender]):
            raise ValueError(
                f"with: {self.lender} is encoded from {_say(_needs(modalities[self.lender]))}, and this field gives "
                f"{_say(self._needs)}"
            )
        self._holder = (tower,)
        self.width, self.context_length = tower.width, tower.context_length
        self.has_projection, self.has_tokens = tower.has_projection, tower.has_tokens
        self.has_class_token = tower.has_class_token

    @property
    def holder(self) -> Encoder:
        return self._holder[0] if self._holder else self

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        """Encode n inputs by the other field's encoder."""
        return self.holder(x, tokens=True) if tokens else self.holder(x)

    def transform(self, train: bool) -> Transform:
        return self.holder.transform(train)


def _needs(modality: Modality) -> tuple[str, tuple[int, ...], int]:
    return modality.kind, tuple(modality.shape), modality.rate


def _say(needs: tuple[str, tuple[int, ...], int]) -> str:
    kind, shape, rate = needs
    return " ".join(filter(None, [kind, "x".join(map(str, shape)), f"at {rate} Hz" if rate else ""]))
