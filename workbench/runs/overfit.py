"""One batch learnt by heart: whether the model, the objective and the learning rate can, and what stops them.

A training whose loss stands at ln B may have a wrong rate, frozen towers, or data in which there is nothing to learn.
On one batch, read once and trained on again and again, these come apart within a minute: the loss falls from that of
knowing nothing (chance) to the least that the batch allows (floor), or it does not, and the reason is looked for.

The trap: dropout and augmentation would make another batch of it every step. Both are switched off, and a fall says
nothing of data that were never seen: pairs that do not belong together are learnt by heart, too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from workbench.recipe.schema import Recipe
from workbench.runs.floor import Bounds, bounds_of
from workbench.runs.one_batch import Curve, TermReport, fit_into, open_batch
from workbench.runs.reasons import FALLS, find_certain, judge_rates, name_collapsed, name_repeated, try_rates

SECONDS = 40.0
"""what the steps may take, about, all of them; to read and to build take their own"""
STEPS = 200
"""steps of the main try, at most"""


@dataclass(frozen=True)
class Overfit:
    """What one batch has shown."""

    rows: int
    of_rows: int
    """samples of the recipe's batch"""
    steps: int
    lr: float
    seconds: float
    terms: list[TermReport]
    """the total is the last one"""
    falls: bool
    reasons: list[str]
    """the likeliest first; of a loss that falls, what else there is to be said"""
    tried: dict[float, float] = field(default_factory=dict)
    """{learning rate: the loss after as many steps of the range test}, where there was one"""

    def as_dict(self) -> dict[str, object]:
        """Give plain values."""
        tried = {f"{lr:g}": loss if math.isfinite(loss) else None for lr, loss in self.tried.items()}
        return {**asdict(self), "tried": tried}


def overfit(recipe: Recipe, seconds: float = SECONDS) -> Overfit:
    """Train on one batch of a recipe's own data, from its own initial weights, and say what comes of it.

    Raises RecipeError and ValueError where the parts do not fit each other, or the data cannot be read.
    """
    bench, lr = fit_into(open_batch(recipe), seconds / 2), recipe.train.lr
    bench.restore()
    before = bench.views()
    bounds = bounds_of(bench.parts.objective, before, bench.batch, seed=recipe.seed)
    curve = bench.try_rate(lr, STEPS, seconds / 2, bounds["total"], warmup=5)
    terms = [
        TermReport(name, *bounds.get(name, Bounds(None, None)), values[0], curve.mean(name))
        for name, values in curve.losses.items()
    ]
    falls, total, tried = _falls(terms[-1], curve), terms[-1], dict[float, float]()
    after = bench.views() if curve.is_finite else before
    reasons = [] if falls else find_certain(bench, curve, terms, before)
    if not falls and not reasons:
        tried = try_rates(bench, curve, lr, seconds / 2)
        reasons = [*judge_rates(total, lr, tried), *name_collapsed(before, after)]
    reasons += name_repeated(bench, total)
    rows = len(bench.batch)
    return Overfit(rows, recipe.train.batch, curve.steps, lr, curve.seconds, terms, falls, reasons, tried)


def _falls(total: TermReport, curve: Curve) -> bool:
    """Whether a loss goes towards its floor; where nothing is known of that, whether it is under half of its first."""
    if not curve.is_finite:
        return False
    if total.chance is None:
        return total.last < 0.5 * total.first
    return total.share is not None and total.share >= FALLS
