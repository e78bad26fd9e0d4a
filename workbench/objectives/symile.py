"""Symile: total correlation of all modalities at once through multilinear products (Saporta et al. 2024).

The trap: with two modalities a shuffled row may still be the positive, so the loss is not CLIP's: refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kernels import contrast_lse
from workbench.seeds import seed_for
from workbench.terms import Scale
from workbench.types import Loss, Pool, Side, Views

__all__ = ["Symile"]


class Symile(nn.Module):
    """mean over anchors i of CE over B candidates: the true product against products of independently shuffled others.

    logits_i = s <z_i, prod_j z_j>; the candidate on the diagonal is the sample's own product, every other one mixes
    samples. Shuffles are drawn from (seed, step), alike on every process.

    Args:
        scale: factor on products: {init, learn, max}; products of unit rows are small, so it may start below 1.
    """

    total_weight = 1.0

    def __init__(self, modalities: Sequence[str], *, scale: Scale = Scale()) -> None:
        super().__init__()
        if len(modalities) < 3:
            raise ValueError(
                f"symile needs three modalities or more, the model has {len(modalities)}: {list(modalities)}; use clip"
            )
        self.modalities = tuple(modalities)
        self.all_sides = [Side((m,)) for m in modalities]
        self.limit = scale.max
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale.init)]), requires_grad=scale.learn)

    def sides(self, step: int) -> Sequence[Side]:
        return self.all_sides

    def scale(self) -> Float[Tensor, 1]:
        """exp(log scale), clamped."""
        return self.log_scale.exp().clamp(max=self.limit)

    def forward(self, z: Views, pool: Pool) -> Loss:
        """First view of each modality; samples that miss one are left out."""
        complete = torch.stack([pool.views[m].valid[:, 0] for m in self.modalities]).all(0)
        generator = torch.Generator().manual_seed(seed_for(pool.seed, "symile", pool.step))
        losses = {
            f"loss/{m}": self._anchor(m, z, pool, complete.nonzero().flatten(), generator) for m in self.modalities
        }
        total = torch.stack(list(losses.values())).mean()
        return Loss(total, {k: v.detach() for k, v in losses.items()} | {"scale": self.scale().detach()[0]})

    def _anchor(
        self, anchor: str, z: Views, pool: Pool, complete: Int64[Tensor, " c"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        others = [m for m in self.modalities if m != anchor]
        shuffles = [complete[torch.randperm(len(complete), generator=generator).to(complete.device)] for _ in others]
        negatives = _product(pool.views[m].z[order, 0] for m, order in zip(others, shuffles, strict=True))
        x = z[anchor].z[:, 0]
        scale = self.scale()
        positive = scale * (x * _product(z[m].z[:, 0] for m in others)).sum(1)
        # the candidate at a sample's own place gives way to its true product
        own = pool.offset + torch.arange(len(x), device=x.device)
        negative, _ = contrast_lse(x, negatives, scale, exclude="group", x_ids=own, y_ids=complete)
        loss = torch.logaddexp(negative, positive) - positive
        world = len(pool.ids) / len(x)
        return (loss * torch.isin(own, complete)).sum() * world / max(1, len(complete))

    def score(self, query: Views, candidates: Views) -> Float[Tensor, "q c"]:
        """<prod of the query's modalities, candidate>."""
        (target,) = candidates.values()
        return _product(view.z[:, 0] for view in query.values()) @ target.z[:, 0].T

    def query_sides(self, others: Sequence[str], target: str) -> list[str]:
        """All others at once: the score is multilinear."""
        return list(others)

    def optimum(self, truth: Any) -> tuple[float, float] | None:
        """(exact optimum, no-information loss) in nats on a synthetic task."""
        best = truth.symile()
        return best.value, best.no_information


def _product(rows: Iterable[Tensor]) -> Tensor:
    return reduce(torch.mul, rows)
