"""Symile: total correlation of all modalities at once through multilinear products (Saporta et al. 2024).

The trap: with two modalities a shuffled row may still be the positive, so the loss is not CLIP's: refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kernels import contrast_lse, khatri_rao_lse
from workbench.contrasts import rows_of_view
from workbench.scale import Scale, ScaledObjective
from workbench.seeds import seed_for
from workbench.types import Loss, Pool, Side, View, Views

if TYPE_CHECKING:
    from synthetic.theory.optima import Optimum
    from synthetic.theory.truth import Truth

__all__ = ["Symile"]


class Symile(ScaledObjective):
    """mean over anchors i of CE over candidates: the true product of the other modalities against negative products.

    logits_i = s <z_i, prod_j z_j>. With `n`, there are as many candidates as samples: the one at a sample's own place
    is its true product, every other one mixes samples by shuffles drawn from (seed, step), alike on every process.
    With `n_squared`, they are the products of every pair of the two other modalities' samples, in linear memory.
    Saporta et al. 2024 (arXiv 2411.01053). Three modalities or more; time 8 M B^2 d, with `n_squared` 24 B^3 d; memory
    M B d for both.

    Args:
        negatives: n, shuffled products; n_squared, all products of three modalities, for n times the work.
        scale: factor on products: {init, learn, max}; products of unit rows are small, so it may start below 1.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        negatives: Literal["n", "n_squared"] = "n",
        scale: Scale = Scale(),
    ) -> None:
        super().__init__(scale)
        if len(modalities) < 3:
            raise ValueError(
                f"symile needs three modalities or more, the model has {len(modalities)}: {list(modalities)}; use clip"
            )
        if negatives == "n_squared" and len(modalities) != 3:
            raise ValueError(
                f"symile's negatives 'n_squared' pair the two others of three modalities, the model has "
                f"{len(modalities)}: {list(modalities)}; use negatives: n"
            )
        self.modalities = tuple(modalities)
        self.negatives = negatives
        self.needs_complete = True
        self.all_sides = [Side((m,)) for m in modalities]

    def forward(self, z: Views, pool: Pool) -> Loss:
        """Contrast the first views of the modalities; samples that miss one are left out."""
        complete = torch.stack([pool.views[side].valid[:, 0] for side in self.all_sides]).all(0)
        generator = torch.Generator().manual_seed(seed_for(pool.seed, "symile", pool.step))
        mine = slice(pool.offset, pool.offset + len(z[self.all_sides[0]].z))
        places, whole = torch.arange(len(complete), device=complete.device), complete.is_cpu and bool(complete.all())
        # where every sample is complete both are one tensor, which the kernels need not compare with itself
        candidates = places if whole else complete.nonzero().flatten()
        rows = _Rows(places if mine == slice(0, len(places)) else places[mine], complete[mine], candidates)
        losses = {f"loss/{side}": self._anchor(side, z, pool, rows, generator) for side in self.all_sides}
        total = torch.stack(list(losses.values())).mean()
        logs = {name: loss.detach() for name, loss in losses.items()}
        logs["positives/complete"] = complete.float().mean()
        return Loss(total, logs | {"scale": self.scale().detach()[0]})

    def _anchor(self, anchor: Side, z: Views, pool: Pool, rows: _Rows, generator: torch.Generator) -> Float[Tensor, ""]:
        others, complete = [side for side in self.all_sides if side != anchor], rows.candidates
        x, scale = rows_of_view(z[anchor], 0), self.scale()
        positive = scale * (x * _product(rows_of_view(z[side], 0) for side in others)).sum(1)
        if len(complete) == 0:
            return 0 * positive.sum()
        if self.negatives == "n_squared":
            y, w = (_choose(pool.views[side], complete) for side in others)
            lse = khatri_rao_lse(x, y, w, scale)
        else:
            shuffles = [complete[torch.randperm(len(complete), generator=generator).to(x.device)] for _ in others]
            products = _product(_choose(pool.views[side], order) for side, order in zip(others, shuffles, strict=True))
            # the candidate at a sample's own place gives way to its true product
            negative, _ = contrast_lse(x, products, scale, exclude="group", x_ids=rows.own, y_ids=complete)
            lse = torch.logaddexp(negative, positive)
        return ((lse - positive) * rows.complete).sum() * pool.world / len(complete)

    def score(self, query: Views, candidates: Views) -> Float[Tensor, "q c"]:
        """Return the inner product of every candidate with the product of the query's modalities."""
        (target,) = candidates.values()
        return _product(view.z[:, 0] for view in query.values()) @ target.z[:, 0].T

    def query_sides(self, others: Sequence[str], target: str) -> list[Side]:
        """Ask by all others at once: the score is multilinear."""
        return [Side((m,)) for m in others] if {target, *others} <= {*self.modalities} else []

    def optimum(self, truth: Truth) -> Optimum | None:
        """Give the optimum of the chosen negatives; None where `n_squared` has no known one."""
        return truth.symile_all() if self.negatives == "n_squared" else truth.symile()


class _Rows(NamedTuple):
    """This process's rows and the candidates of all, by their places in the pool."""

    own: Int64[Tensor, " b"]
    complete: Bool[Tensor, " b"]
    """which of its own have every modality"""
    candidates: Int64[Tensor, " c"]
    """all that are complete"""


def _choose(view: View, places: Int64[Tensor, " c"]) -> Float[Tensor, "c d"]:
    """Choose the first views at some places, of which each comes once: adding up their gradients needs no order."""
    return rows_of_view(view, 0).index_select(0, places)


def _product(rows: Iterable[Tensor]) -> Tensor:
    return reduce(torch.mul, rows)
