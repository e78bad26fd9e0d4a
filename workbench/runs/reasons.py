"""Why a batch is not learnt by heart: the likeliest reason first, each with the number that speaks for it.

The order is that of certainty: what is no number, what the data allow, what has no gradient, what cannot move, and then
the learning rate, of which a range test on the same batch names a better one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from workbench.runs.floor import classes_of, scale_floor
from workbench.runs.items import NOUNS
from workbench.runs.one_batch import Bench, Curve, TermReport
from workbench.terms import Terms
from workbench.types import View, Views

FALLS = 0.3
"""share of the way from chance to floor from which a loss falls"""
FACTORS = (0.1, 0.3, 3.0, 10.0)
"""times the recipe's learning rate: the range test, ..."""
USUAL = (1e-5, 1e-4, 1e-3, 1e-2)
"""... and rates that a recipe may be far from"""
CONSTANT = 0.999
"""mean cosine of different samples from which embeddings are one and the same"""
BETTER = 0.15
"""share of the way that another rate has to go farther, to be named"""


def find_certain(bench: Bench, curve: Curve, terms: Sequence[TermReport], before: Views) -> list[str]:
    """List what stops a loss whatever the learning rate is; where that is nothing, the rate may.

    `before` are embeddings of the batch by the initial weights.
    """
    found = [*_no_number(bench, curve), *_the_same(bench, terms[-1]), *_unpaired(bench), *_frozen(bench)]
    return [*found, *_cold(bench, terms), *_constant(before)]


def try_rates(bench: Bench, curve: Curve, lr: float, seconds: float) -> dict[float, float]:
    """Train a few steps at lower and at higher rates, each from the same weights: {rate: its last loss}; of a loss that
    is no number infinity. The recipe's own rate is there, too, after as many steps."""
    rates = [float(f"{lr * factor:.2g}") for factor in FACTORS]
    rates += [rate for rate in USUAL if all(not 0.5 < rate / other < 2 for other in (*rates, lr))]
    step = curve.seconds / curve.steps
    # a loss that is soon no number says nothing of how many steps a sound rate takes
    steps = max(5, min(60, curve.steps if curve.is_finite else 60, int(seconds / len(rates) / step)))
    tried: dict[float, float] = {}
    for rate in rates:
        found = bench.try_rate(rate, steps, seconds / len(rates), warmup=min(5, steps // 4))
        tried[rate] = found.mean("total") if found.is_finite else math.inf
    own = curve.mean("total", steps)
    return dict(sorted({**tried, lr: own if math.isfinite(own) else math.inf}.items()))


def judge_rates(total: TermReport, own: float, tried: dict[float, float]) -> Iterator[str]:
    """Name the learning rate that does better than the recipe's `own` on the same batch, by much; say so where none is
    better."""
    chance = total.first if total.chance is None else total.chance
    way = chance - (total.floor or 0.0)
    best = min(tried, key=lambda rate: tried[rate])
    if not math.isfinite(tried[own]) and math.isfinite(tried[best]):
        yield (
            f"learning rate too high: {own:g}. The loss is soon no number by it, and {tried[best]:.3f} at {best:g}: "
            f"set train.lr={best:g}"
        )
        return
    reached, mine = ((chance - min(tried[rate], 1e9)) / way for rate in (best, own))
    if reached >= FALLS / 2 and reached - mine >= BETTER:
        yield (
            f"learning rate too {'low' if best > own else 'high'}: {own:g}. After as many steps the loss is "
            f"{tried[best]:.3f} at {best:g}, and {tried[own]:.3f} at {own:g}: set train.lr={best:g}"
        )
        return
    yield (
        "no learning rate of the range test does better: try `wb check RECIPE --deep` (are gradients right?), a wider "
        "model.dim, or other towers"
    )


def _no_number(bench: Bench, curve: Curve) -> Iterator[str]:
    """Say that the loss is no number before any update; behind one the rate may be why."""
    if curve.is_finite or curve.steps > 1:
        return
    how = "set train.precision=fp32" if bench.parts.recipe.train.precision == "bf16" else "look at its initial weights"
    yield f"the loss is {curve.losses['total'][-1]} before any update: the model overflows: {how}"


def _owners(bench: Bench) -> Iterator[tuple[str, Counter[int]]]:
    """Yield for every field what to call its items, and how many ids have each of the items that differ."""
    batch, modalities = bench.batch, bench.parts.data.modalities
    for name, classes in classes_of(batch).items():
        there = batch.valid[name].cpu()
        ids = batch.ids.cpu()[:, None].expand(there.shape)[there]
        pairs = set(zip(classes[there].tolist(), ids.tolist(), strict=True))
        if len(set(ids.tolist())) > 1:
            yield f"{NOUNS[modalities[name].kind]}s of '{name}'", Counter(item for item, _ in pairs)


def _the_same(bench: Bench, total: TermReport) -> Iterator[str]:
    """Say which fields are the same in all samples, and that no loss below chance exists."""
    same = [(what, sum(ids.values())) for what, ids in _owners(bench) if len(ids) == 1]
    for what, count in same:
        yield f"the data: all {count} {what} are the same, so nothing can be told by them"
    if total.chance and total.share is None and not same:
        yield f"the data: no loss below {total.floor or 0:.3f} exists for this batch, and chance is {total.chance:.3f}"


def name_repeated(bench: Bench, total: TermReport) -> Iterator[str]:
    """Say which fields repeat under other ids, and what that costs."""
    for what, ids in _owners(bench):
        shared = sum(count for count in ids.values() if count > 1)
        if shared and len(ids) > 1:
            floor = "" if total.floor is None else f", and no model gets below {total.floor:.3f}"
            yield (
                f"the data: {shared} of {sum(ids.values())} {what} are those of another sample, too: they are each "
                f"other's wrong answers{floor}; equal ids (data.id) make them right ones"
            )


def _unpaired(bench: Bench) -> Iterator[str]:
    """Say which terms have no sample with both of their sides."""
    if not isinstance(bench.parts.objective, Terms):
        return
    there = {name: valid.any(1) for name, valid in bench.batch.valid.items()}
    for name, term in bench.parts.objective.named.items():
        members = [m for side in term.sides for m in side.members]
        both = int(torch.stack([there[m] for m in members]).all(0).sum())
        if both < 2:
            yield f"the data: {both} samples of the batch have both sides of {name}: it has nothing to contrast"


def _frozen(bench: Bench) -> Iterator[str]:
    """Say which towers are to learn and get no gradient."""
    engine = bench.engine(bench.parts.recipe.train.lr)
    loss = engine.gradients(bench.batch)
    for name, encoder in bench.parts.model.encoders.items():
        learning = [p for p in encoder.parameters() if p.requires_grad]
        if loss.total.isfinite() and learning and not any(p.grad is not None and p.grad.any() for p in learning):
            yield f"no gradient reaches encoder '{name}', though it is to learn: is it detached, or are its inputs 0?"
    engine.optimizer.zero_grad()
    if not any(bench.parts.model.learns(side) for side in bench.parts.objective.sides(0)):
        yield "frozen: nothing that makes an embedding is trained: remove a lock, or set model.head=linear"


def _cold(bench: Bench, terms: Sequence[TermReport]) -> Iterator[str]:
    """Say that the scale is so small that no embeddings would lower the loss by much."""
    scale, total, rows = bench.parts.objective.scale(), terms[-1], len(bench.batch)
    if scale is None or not isinstance(bench.parts.objective, Terms):
        return
    value, chance = float(scale.detach()[0]), math.log(rows)
    least = scale_floor(value, rows, cosine=True)
    single = all(term.loss == "infonce" for term in bench.parts.objective.terms)
    if single and total.chance and least > (1 - FALLS) * chance:
        learnt = "is learned slowly" if scale.requires_grad else "does not learn"
        yield (
            f"temperature: at a scale of {value:.3g} no embeddings bring a term below {least:.3f} of ln {rows} = "
            f"{chance:.3f}, and the scale {learnt}: set objective.scale.init=14.3 (CLIP's)"
        )


def _constant(before: Views) -> Iterator[str]:
    """Say which embeddings are nearly one and the same from the start."""
    for side, view in before.items():
        if (cosine := _likeness(view)) > CONSTANT:
            yield (
                f"constant embeddings: {side} has one vector for all samples from the start (mean cosine "
                f"{cosine:.5f}): its tower sees no difference; look at its inputs and initial weights"
            )


def name_collapsed(before: Views, after: Views) -> Iterator[str]:
    """Say which embeddings training has made one and the same."""
    for side in before:
        first, last = (_likeness(views[side]) for views in (before, after))
        if first <= CONSTANT < last:
            yield f"collapse: {side} ends with one vector for all samples (mean cosine {last:.5f}, before {first:.3f})"


def _likeness(view: View) -> float:
    """Average the cosine of different samples' first views."""
    z = view.z[view.valid[:, 0], 0].float()
    if len(z) < 2:
        return 0.0
    total: Tensor = z.sum(0).square().sum() - z.square().sum()
    return float(total / (len(z) * (len(z) - 1)))
