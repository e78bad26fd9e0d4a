"""An objective written in the recipe: any list of contrast terms. A new idea is a few lines of YAML."""

from collections.abc import Sequence

from workbench import terms as machine
from workbench.terms import Scale, Term

__all__ = ["Terms"]


class Terms(machine.Terms):
    """sum_t weight_t loss_t(side, side).

    Args:
        terms: blocks {between: [A, B], loss, positives, views, weight, scale, detach}.
        scale: the shared factor on cosines: {init, learn, max}.
        bias: initial bias of sigmoid terms.
    """

    def __init__(
        self, modalities: Sequence[str], *, terms: list[Term], scale: Scale = Scale(), bias: float = -10.0
    ) -> None:
        super().__init__(modalities, terms, scale, bias)
