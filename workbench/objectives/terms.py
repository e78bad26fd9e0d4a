"""An objective written in the recipe: any list of contrast terms. A new idea is a few lines of YAML."""

from collections.abc import Sequence

from workbench import terms as machine
from workbench.terms import Scale, Term

__all__ = ["Terms"]


class Terms(machine.Terms):
    """sum_t weight_t loss_t(side, side).

    What clip, siglip, hub, ito and confu are short for: `wb show recipe` prints a recipe's objective as its terms. A
    side is a modality (image), a fusion of several (image+text), or a second head on one (image@ssl). A term costs
    8 B^2 d in time for each pair of views, and memory linear in the batch; a fused side its fusion of B rows.

    Args:
        terms: blocks {between: [A, B], loss, positives, views, weight, scale, detach}.
        scale: the shared factor on cosines: {init, learn, max}.
        bias: initial bias of sigmoid terms.
    """

    def __init__(
        self, modalities: Sequence[str], *, terms: list[Term], scale: Scale = Scale(), bias: float = -10.0
    ) -> None:
        super().__init__(modalities, terms, scale, bias)
