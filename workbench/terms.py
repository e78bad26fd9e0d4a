"""Objectives as weighted sums of contrast terms between sides. CLIP is one term, ITO two, ConFu six.

A term says which two sides are contrasted, by which loss, and what counts as a positive. Everything else here turns a
term into calls of `kernels`, which know neither views nor modalities: rows, ids and weights are all they see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels import multi_positive_infonce, multi_positive_sigmoid
from synthetic.theory.optima import Optimum
from workbench.contrasts import (
    Contrasted,
    TermRows,
    align_uniform,
    all_rows,
    rows_of_view,
    scale_gradient,
    share_with_positive,
    shown,
    weight_of,
)
from workbench.scale import Scale
from workbench.term import Term, refine
from workbench.types import Loss, Objective, Pool, Question, Side, View, Views

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from synthetic.theory.truth import Truth


class Terms(Objective):
    """A weighted sum of contrast terms, with their scales (and a bias where a term is a sigmoid).

    Terms of weight 0 are dropped here: their sides are never asked for. Of several terms between the same two sides,
    the second is called `a~b#2` in the logs and among the scales, and so on.
    """

    def __init__(self, modalities: Sequence[str], terms: Sequence[Term], scale: Scale, bias: float = -10.0) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.terms = [term for term in terms if term.weight > 0]
        if not self.terms:
            none = "the list of terms is empty" if not terms else "every term of the objective has weight 0"
            raise ValueError(f"{none}: nothing would be trained")
        with_fusion = [term for term in self.terms if any(side.fused for side in term.sides)]
        if with_fusion and all("fused" in term.detach for term in with_fusion):
            raise ValueError(
                f"detach: [fused] stands in every term of a fused side ({', '.join(t.name for t in with_fusion)}), "
                "and nothing trains the fusion that teaches: remove it from one, or add a term that trains the fusion"
            )
        self.named = dict(zip(_unique_names(self.terms), self.terms, strict=True))
        self.limits = {"shared": scale} | {n: t.scale for n, t in self.named.items() if isinstance(t.scale, Scale)}
        self.log_scales = nn.ParameterDict({name: limits.parameter() for name, limits in self.limits.items()})
        self.scale_falls_to = scale.falls_to
        self.least_dim = max(max(term.matryoshka or [1]) for term in self.terms)
        has_sigmoid = any(t.loss == "sigmoid" for t in self.terms)
        self.bias = nn.Parameter(torch.tensor([bias])) if has_sigmoid else None
        self.all_sides = list(dict.fromkeys(side for term in self.terms for side in term.sides))
        self.total_weight = sum(term.weight for term in self.terms)
        unknown = {m for side in self.all_sides for m in side.members} - set(self.modalities)
        strangers = {g for term in self.terms for g in term.guides if Side.parse(g) not in self.all_sides}
        if strangers:
            raise ValueError(
                f"false_negatives.guide names {sorted(strangers)}, which no term contrasts: name one of "
                f"{', '.join(map(str, self.all_sides))}"
            )
        if unknown:
            raise ValueError(f"terms speak of {sorted(unknown)}, the model has encoders for {list(self.modalities)}")

    def scale(self, name: str = "shared") -> Float[Tensor, 1]:
        """Return exp(log scale) of the term of this name: the shared one where it has none of its own."""
        return self.log_scales[name if name in self.log_scales else "shared"].exp()

    def constrain(self) -> None:
        for name, limits in self.limits.items():
            limits.limit_(self.log_scales[name])

    def forward(self, z: Views, pool: Pool) -> Loss:
        """Sum the weighted terms over the pool; logs hold each term unweighted, and how many rows have a positive."""
        terms = {name: self.contrast(term, z, pool, self.scale(name)) for name, term in self.named.items()}
        total = sum(self.named[name].weight * found.loss for name, found in terms.items())
        assert isinstance(total, Tensor)
        return Loss(scale_gradient(total, pool.world), shown(terms, self.scale()))

    def contrast(self, term: Term, z: Views, pool: Pool, scale: Float[Tensor, 1]) -> Contrasted:
        """Compute one term, unweighted: its value is the loss over all rows of the pool, alike on every rank."""
        a, b = term.sides
        scale = scale.detach() if "scale" in term.detach else scale
        if "fused" in term.detach:
            z, pool = _without_gradient_of_fused(z), replace(pool, views=_without_gradient_of_fused(pool.views))
        if term.is_self:
            return self._against_itself(term, z[a], pool.views[a], pool, scale)
        if term.positives in (None, "pairwise"):
            return self._pairwise(term, z, pool, scale)
        x, y = all_rows(z[a], _own_ids(pool, z[a])), all_rows(pool.views[b], pool.ids)
        everyone = all_rows(pool.views[a], pool.ids)
        loss = self._loss(term, x, everyone, y, pool, scale, pool.offset * z[a].z.shape[1])
        return Contrasted(loss, share_with_positive(everyone, y, others=0))

    def _against_itself(
        self, term: Term, mine: View, everyone: View, pool: Pool, scale: Float[Tensor, 1]
    ) -> Contrasted:
        k = mine.z.shape[1]
        if k < 2:
            raise ValueError(
                f"term {term.name}: a side with a single view has no other view to match: give the data more views"
            )
        x, y = all_rows(mine, _own_ids(pool, mine)), all_rows(everyone, pool.ids)
        loss = self._loss(term, x, y, y, pool, scale, pool.offset * k, exclude_self=True)
        return Contrasted(loss, share_with_positive(y, y, others=1))

    def _pairwise(self, term: Term, z: Views, pool: Pool, scale: Float[Tensor, 1]) -> Contrasted:
        """Contrast every view of one side with every view of the other, over the samples that have both."""
        a, b = term.sides
        mine, theirs, everyone = z[a], z[b], pool.views[b]
        losses, counts = [], []
        for v, t in product(range(mine.z.shape[1]), range(everyone.z.shape[1])):
            both = all_both = mine.valid[:, v] & theirs.valid[:, t]
            weight = all_weight = weight_of(both)
            mine_everywhere = pool.views[a].valid
            if mine_everywhere is not mine.valid or everyone.valid is not theirs.valid:  # there are other ranks
                all_both = mine_everywhere[:, v] & everyone.valid[:, t]
                all_weight = weight_of(all_both)
            x = TermRows(rows_of_view(mine, v), _own_ids(pool, mine), weight)
            y = TermRows(rows_of_view(everyone, t), pool.ids, all_weight)
            if term.loss == "align_uniform":
                pairs = (rows_of_view(pool.views[a], v), y.z)
                losses.append(align_uniform((x.z, rows_of_view(theirs, t)), pairs, all_both, pool))
            else:
                all_x = TermRows(rows_of_view(pool.views[a], v), pool.ids, all_weight)
                losses.append(self._loss(term, x, all_x, y, pool, scale, pool.offset))
            counts.append(all_both.sum())
        rows = torch.stack(counts)
        positives = rows.sum() / (len(pool.ids) * len(counts))  # a row of a sample that has both is its own positive
        if len(losses) == 1:
            return Contrasted(losses[0], positives)
        return Contrasted((torch.stack(losses) * rows).sum() / rows.sum().clamp(min=1), positives)

    def _loss(
        self,
        term: Term,
        x: TermRows,
        everyone: TermRows,
        y: TermRows,
        pool: Pool,
        scale: Float[Tensor, 1],
        offset: int,
        exclude_self: bool = False,
    ) -> Float[Tensor, ""]:
        where = _Where(
            exclude_self=exclude_self, x_weight=x.weight, y_weight=y.weight, x_offset=offset, group=pool.group
        )
        if term.loss == "sigmoid":
            assert self.bias is not None
            sigmoid = term.over_prefixes(multi_positive_sigmoid)
            return sigmoid(x.z, y.z, scale, self.bias, x.ids, y.ids, **where)
        positives = (
            term.positives if term.positives in ("mean", "logsum", "each") else "each" if exclude_self else "mean"
        )
        infonce, options = term.over_prefixes(multi_positive_infonce), refine(term, x, everyone, y, pool)
        return infonce(
            x.z, y.z, scale, x.ids, y.ids, positives=positives, symmetric=not exclude_self, **where, **options
        )

    def ask(self, others: Sequence[str], target: str) -> Question | None:
        """Ask by what terms have trained; where they never contrast the others with the target, by each of them alone,
        if all are trained and the target is: what they tell of it is then emergent.

        A subclass that says itself which sides ask, or which is searched, is believed.
        """
        own = type(self)
        if own.query_sides is not Terms.query_sides or own.candidate_side is not Objective.candidate_side:
            return super().ask(others, target)
        alone = {m: Side((m,)) for m in (*others, target)}
        if question := self._trained(others, target):
            return question
        emergent = set(alone.values()) <= set(self.all_sides)
        return Question(tuple(alone[m] for m in others), alone[target]) if emergent else None

    def query_sides(self, others: Sequence[str], target: str) -> list[Side]:
        """List the sides that terms contrast with the target: one fused from all others, else all there are."""
        question = self._trained(others, target)
        return list(question.query) if question else []

    def _trained(self, others: Sequence[str], target: str) -> Question | None:
        """Find the sides of terms that meet one and the same side of the target.

        A target may have several sides (its own, a second head's), each with terms of its own: of these the one counts
        that a fusion of all others meets, else the one that most of the others meet, else the plain one.
        """
        partners: dict[Side, dict[Side, None]] = {}
        for term in self.terms:
            for mine, theirs in (term.sides, term.sides[::-1]):
                if theirs.members == (target,) and set(mine.members) <= set(others):
                    partners.setdefault(theirs, {})[mine] = None
        if not partners:
            return None
        whole = {side: [s for s in asking if set(s.members) == set(others)] for side, asking in partners.items()}
        told = {side: len({m for s in asking for m in s.members}) for side, asking in partners.items()}
        best = max(partners, key=lambda side: (bool(whole[side]), told[side], side.plain))
        return Question(tuple(whole[best] or partners[best]), best)

    def optimum(self, truth: Truth) -> Optimum | None:
        """Add up the terms' exact optima; None where a term has no known one."""
        floor = chance = 0.0
        for term in self.terms:
            (a, b), kind = term.sides, truth.sigmoid if term.loss == "sigmoid" else truth.infonce
            if term.is_self or set(a.members) & set(b.members) or not term.plain:
                return None
            best = kind(a.members, b.members)
            if best is None:
                return None
            floor += term.weight * best.value
            chance += term.weight * best.no_information
        return Optimum(floor, chance)


class _Where(TypedDict):
    """Keywords that both kernels take: which rows count, and where this rank's rows stand among all."""

    exclude_self: bool
    x_weight: Float[Tensor, " m"] | None
    y_weight: Float[Tensor, " n"] | None
    x_offset: int
    group: ProcessGroup | None


def _unique_names(terms: Sequence[Term]) -> list[str]:
    names: list[str] = []
    for term in terms:
        count = 1 + sum(earlier.name == term.name for earlier in terms[: len(names)])
        names.append(term.name if count == 1 else f"{term.name}#{count}")
    return names


def _without_gradient_of_fused(views: Views) -> Views:
    return {side: View(view.z.detach(), view.valid) if side.fused else view for side, view in views.items()}


def _own_ids(pool: Pool, mine: View) -> Tensor:
    # all of them are handed on as the same tensor, which the kernels need not compare with itself
    return pool.ids if len(mine.z) == len(pool.ids) else pool.ids[pool.offset : pool.offset + len(mine.z)]
