"""InfoNCE whose logits are minus a volume spanned by one anchor and a set of others: GRAM and TRIANGLE inherit it.

The trap: such logits are no dot products, so the B x B matrix exists; and label smoothing lifts the optimum above that
of InfoNCE, by a share of the mean distance to all candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from synthetic.theory.optima import Optimum
from workbench.scale import Scale, ScaledObjective
from workbench.types import Loss, Pool, Side, Views

if TYPE_CHECKING:
    from synthetic.theory.truth import Truth


class VolumeContrast(ScaledObjective, ABC):
    """1/2 [CE over sets + CE over anchors] of logits_ij = -s volume(anchor_i, set_j), with label smoothing.

    A subclass says what the volume is. Positives are equal ids. Samples that miss a modality are left out. The first
    view of each modality is used.
    """

    def __init__(self, modalities: Sequence[str], anchor: str | None, scale: Scale, label_smoothing: float) -> None:
        super().__init__(scale)
        self.modalities = tuple(modalities)
        self.anchor = modalities[0] if anchor is None else anchor
        if self.anchor not in modalities:
            raise ValueError(f"anchor {anchor!r} is no modality of the model: set it to one of {list(modalities)}")
        self.others = tuple(m for m in modalities if m != self.anchor)
        self.label_smoothing = label_smoothing
        self.needs_complete = True
        self.side_of = {m: Side((m,)) for m in modalities}
        self.all_sides = list(self.side_of.values())

    @abstractmethod
    def volume(self, anchor: Float[Tensor, "m d"], others: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, "m n"]:
        """Compute the volume of every anchor with every set of others."""

    def forward(self, z: Views, pool: Pool) -> Loss:
        """Average over the complete samples of the pool; each process computes its rows and its columns."""
        complete = torch.stack([pool.views[side].valid[:, 0] for side in self.all_sides]).all(0)
        size = len(z[self.side_of[self.anchor]].z)
        mine, count = complete[pool.offset : pool.offset + size], complete.sum().clamp(min=1)
        anchors = self._logits(z, pool.views, mine, complete)
        sets = anchors.T if pool.world == 1 else self._logits(pool.views, z, complete, mine).T
        ids, all_ids = pool.ids[pool.offset : pool.offset + size][mine], pool.ids[complete]
        by_anchor, by_set = (
            smoothed_cross_entropy(logits, ids[:, None] == all_ids, self.label_smoothing).sum() * pool.world / count
            for logits in (anchors, sets)
        )
        logs = {f"loss/{self.anchor}": by_anchor.detach(), f"loss/{'+'.join(self.others)}": by_set.detach()}
        logs["positives/complete"] = complete.float().mean()
        return Loss((by_anchor + by_set) / 2, logs | {"scale": self.scale().detach()[0]})

    def _logits(
        self, anchors: Views, sets: Views, these: Bool[Tensor, " a"], those: Bool[Tensor, " b"]
    ) -> Float[Tensor, "m n"]:
        others = [sets[self.side_of[m]].z[those, 0] for m in self.others]
        return -self.scale() * self.volume(anchors[self.side_of[self.anchor]].z[these, 0], others)

    def score(self, query: Views, candidates: Views) -> Float[Tensor, "q c"]:
        """Return minus the volume that every candidate spans with every query's modalities."""
        (target,) = candidates.values()
        return -self.volume(target.z[:, 0], [view.z[:, 0] for view in query.values()]).T

    def query_sides(self, others: Sequence[str], target: str) -> list[Side]:
        """Ask by all others at once: they span one volume with the candidate."""
        return [self.side_of[m] for m in others] if self.side_of.keys() >= {target, *others} else []

    def optimum(self, truth: Truth) -> Optimum | None:
        """Give the optimum of any score of anchor and set."""
        return truth.infonce((self.anchor,), self.others, smoothing=self.label_smoothing)


def smoothed_cross_entropy(
    logits: Float[Tensor, "m n"], positive: Bool[Tensor, "m n"], smoothing: float
) -> Float[Tensor, " m"]:
    """Compute the cross-entropy with (1 - smoothing) on a row's positives in equal parts, and smoothing on all n
    candidates."""
    lse = logits.logsumexp(1)
    hit = logits.where(positive, 0).sum(1) / positive.sum(1)
    return lse - (1 - smoothing) * hit - smoothing * logits.mean(1)
