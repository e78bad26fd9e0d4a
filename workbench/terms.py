"""Objectives as weighted sums of contrast terms between sides. CLIP is one term, ITO two, ConFu six.

A term says which two sides are contrasted, by which loss, and what counts as a positive. Everything else here turns a
term into calls of `kernels`, which know neither views nor modalities: rows, ids and weights are all they see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from kernels import multi_positive_infonce, multi_positive_sigmoid
from workbench.recipe.component import Section
from workbench.types import Loss, Pool, Side, View, Views


class Scale(Section):
    """The factor s on cosines (one over the temperature)."""

    init: PositiveFloat = Field(default=1 / 0.07, description="its initial value")
    learn: bool = True
    max: PositiveFloat = Field(default=100.0, description="clamped in the forward pass")


class Term(Section):
    """One contrast between two sides."""

    between: tuple[str, str]
    loss: Literal["infonce", "sigmoid"] = "infonce"
    positives: Literal["pairwise", "mean", "logsum", "each"] | None = Field(
        default=None,
        description="default: pairwise, each view against each view in its own contrast; for a side and itself, each",
    )
    views: Literal["zip", "all"] = Field(default="zip", description="how a fused side combines its members' views")
    weight: NonNegativeFloat = 1.0
    scale: Literal["shared"] | Scale = "shared"
    detach: tuple[Literal["tokens", "positions", "scale"], ...] = Field(
        default=(), description="stop the gradient there"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Term:
        for name in self.between:
            Side.parse(name)
        if self.is_self and self.positives == "pairwise":
            raise ValueError(
                f"{self.between[0]} against itself has no pairs of sides: positives must be mean, logsum or each"
            )
        if self.loss == "sigmoid" and self.positives in ("logsum", "each"):
            raise ValueError(f"a sigmoid term judges every pair by itself: positives {self.positives!r} does not apply")
        return self

    @property
    def is_self(self) -> bool:
        return self.between[0] == self.between[1]

    @property
    def name(self) -> str:
        return "~".join(self.between)

    @property
    def sides(self) -> tuple[Side, Side]:
        """The sides with this term's options written into their names."""
        a, b = (self._with_options(Side.parse(name)) for name in self.between)
        return a, b

    def _with_options(self, side: Side) -> Side:
        if not side.fused:
            return side
        options = {"all"} if self.views == "all" else set()
        return Side(side.members, True, None, frozenset(options | (set(self.detach) - {"scale"})))


class Rows(NamedTuple):
    """A side as the kernels see it."""

    z: Float[Tensor, "m d"]
    ids: Int64[Tensor, " m"]
    weight: Float[Tensor, " m"] | None
    """1 where the row exists, else 0; None when all do"""


class Terms(nn.Module):
    """A weighted sum of contrast terms, with its scale (and bias where a term is a sigmoid).

    The bias exists only for sigmoid terms. Terms of weight 0 are dropped here: their sides are never asked for.
    """

    def __init__(self, modalities: Sequence[str], terms: Sequence[Term], scale: Scale, bias: float = -10.0) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.terms = [term for term in terms if term.weight > 0]
        if not self.terms:
            raise ValueError("every term of the objective has weight 0: nothing would be trained")
        self.limits = {"shared": scale} | {t.name: t.scale for t in self.terms if isinstance(t.scale, Scale)}
        self.log_scales = nn.ParameterDict(
            {
                name: nn.Parameter(torch.tensor([math.log(s.init)]), requires_grad=s.learn)
                for name, s in self.limits.items()
            }
        )
        has_sigmoid = any(t.loss == "sigmoid" for t in self.terms)
        self.bias = nn.Parameter(torch.tensor([bias])) if has_sigmoid else None
        self.all_sides = list(dict.fromkeys(side for term in self.terms for side in term.sides))
        unknown = {m for side in self.all_sides for m in side.members} - set(self.modalities)
        if unknown:
            raise ValueError(f"terms speak of {sorted(unknown)}, the model has encoders for {list(self.modalities)}")

    def sides(self, step: int) -> Sequence[Side]:
        return self.all_sides

    def scale(self, name: str = "shared") -> Float[Tensor, 1]:
        """exp(log scale), clamped."""
        name = name if name in self.log_scales else "shared"
        return self.log_scales[name].exp().clamp(max=self.limits[name].max)

    def forward(self, z: Views, pool: Pool) -> Loss:
        """Weighted sum of the terms over the pool; logs hold each term unweighted."""
        logs = {f"loss/{term.name}": self._contrast(term, z, pool) for term in self.terms}
        total = sum(term.weight * value for term, value in zip(self.terms, logs.values(), strict=True))
        assert isinstance(total, Tensor)
        world = len(pool.ids) // len(next(iter(z.values())).z)
        return Loss(
            scale_gradient(total, world), {k: v.detach() for k, v in logs.items()} | {"scale": self.scale().detach()[0]}
        )

    def _contrast(self, term: Term, z: Views, pool: Pool) -> Float[Tensor, ""]:
        a, b = map(str, term.sides)
        if term.is_self:
            return self._against_itself(term, z[a], pool.views[a], pool)
        if term.positives not in (None, "pairwise"):
            x, y = _all_rows(z[a], _own_ids(pool, z[a])), _all_rows(pool.views[b], pool.ids)
            return self._loss(term, x, y, pool, pool.offset * z[a].z.shape[1])
        return self._pairwise(term, z, pool)

    def _against_itself(self, term: Term, mine: View, everyone: View, pool: Pool) -> Float[Tensor, ""]:
        k = mine.z.shape[1]
        if k < 2:
            raise ValueError(
                f"term {term.name}: a side with a single view has no other view to match: give the data more views"
            )
        x, y = _all_rows(mine, _own_ids(pool, mine)), _all_rows(everyone, pool.ids)
        return self._loss(term, x, y, pool, pool.offset * k, exclude_self=True)

    def _pairwise(self, term: Term, z: Views, pool: Pool) -> Float[Tensor, ""]:
        """Every view of one side against every view of the other, over the samples that have both."""
        a, b = map(str, term.sides)
        mine, theirs, everyone = z[a], z[b], pool.views[b]
        losses, counts = [], []
        for v, t in product(range(mine.z.shape[1]), range(everyone.z.shape[1])):
            both, all_both = mine.valid[:, v] & theirs.valid[:, t], pool.views[a].valid[:, v] & everyone.valid[:, t]
            x = Rows(mine.z[:, v], _own_ids(pool, mine), _weight(both))
            y = Rows(everyone.z[:, t], pool.ids, _weight(all_both))
            losses.append(self._loss(term, x, y, pool, pool.offset))
            counts.append(all_both.sum())
        if len(losses) == 1:
            return losses[0]
        share = torch.stack(counts)
        return (torch.stack(losses) * share).sum() / share.sum().clamp(min=1)

    def _loss(
        self, term: Term, x: Rows, y: Rows, pool: Pool, offset: int, exclude_self: bool = False
    ) -> Float[Tensor, ""]:
        scale = self.scale(term.name)
        scale = scale.detach() if "scale" in term.detach else scale
        common: dict[str, Any] = {"exclude_self": exclude_self, "x_weight": x.weight, "y_weight": y.weight}
        common |= {"x_offset": offset, "group": pool.group}
        if term.loss == "sigmoid":
            assert self.bias is not None
            return multi_positive_sigmoid(x.z, y.z, scale, self.bias, x.ids, y.ids, **common)
        positives = (
            term.positives if term.positives in ("mean", "logsum", "each") else "each" if exclude_self else "mean"
        )
        return multi_positive_infonce(
            x.z, y.z, scale, x.ids, y.ids, positives=positives, symmetric=not exclude_self, **common
        )

    def score(self, query: Views, candidates: Views) -> Float[Tensor, "q c"]:
        """Cosine of every query with every candidate, averaged over the query's sides. First view of each."""
        (target,) = candidates.values()
        cosines = [view.z[:, 0] @ target.z[:, 0].T for view in query.values()]
        return torch.stack(cosines).mean(0) if len(cosines) > 1 else cosines[0]

    def query_sides(self, others: Sequence[str], target: str) -> list[str]:
        """Sides that predict `target`: one fused from all `others`, else each of them that a term trains."""
        partners = [
            mine
            for term in self.terms
            for mine, theirs in (term.sides, term.sides[::-1])
            if theirs.members == (target,) and not theirs.fused and set(mine.members) <= set(others)
        ]
        whole = [side for side in partners if set(side.members) == set(others)]
        return [str(side) for side in dict.fromkeys(whole or partners)]

    def optimum(self, truth: Any) -> tuple[float, float] | None:
        """(exact optimum, no-information loss) in nats on a synthetic task; None where a term has no known one."""
        floor = chance = 0.0
        for term in self.terms:
            (a, b), kind = term.sides, truth.sigmoid if term.loss == "sigmoid" else truth.infonce
            if term.is_self or set(a.members) & set(b.members):
                return None
            best = kind(a.members, b.members)
            if best is None:
                return None
            floor += term.weight * best.value
            chance += term.weight * best.no_information
        return floor, chance

    @property
    def total_weight(self) -> float:
        """Sum of the terms' weights: the unit of the verdict 'blind'."""
        return sum(term.weight for term in self.terms)


def _all_rows(view: View, ids: Tensor) -> Rows:
    """Every view of every sample as a row of its own, sharing the sample's id."""
    k = view.z.shape[1]
    return Rows(view.z.flatten(0, 1), ids.repeat_interleave(k), _weight(view.valid.flatten()))


def _weight(valid: Bool[Tensor, " m"]) -> Float[Tensor, " m"] | None:
    """Kernels are faster without weights. Asking is free on a CPU; on a GPU the answer would cost a stall."""
    return None if valid.is_cpu and valid.all() else valid.float()


def _own_ids(pool: Pool, mine: View) -> Tensor:
    return pool.ids[pool.offset : pool.offset + len(mine.z)]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same value with `factor` times the gradient."""
    return x if factor == 1 else x * factor - (x * (factor - 1)).detach()
