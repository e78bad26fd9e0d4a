"""CoMM: each modality alone, and all together, meet the fusion of all (Dufumier et al. 2024).

The trap: absence and padding. A fusion that attends to what is not there learns to match two paddings; here what is
absent is masked in the fusion, and a sample that lacks a modality is fused from what it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels import multi_positive_infonce
from workbench.objectives._subset import some_member
from workbench.scale import Scale, ScaledObjective
from workbench.terms import Contrasted, all_rows, scale_gradient, shown
from workbench.types import Loss, Pool, Side, View, Views

__all__ = ["CoMM"]


class CoMM(ScaledObjective):
    """L = mean over the M modalities k and the full set of 1/2 [NT-Xent(z'_k, Z'') + NT-Xent(z''_k, Z')].

    Z' and Z'' fuse all modalities of two augmented views, z_k is the same fusion with all but modality k masked, and
    NT-Xent is SimCLR's: of the 2B rows, each row's positive is its partner, itself excluded (arXiv 2409.07402 in its
    authors' code; temperature .1). From data with one view, masking is the only augmentation: NT-Xent(z_k, Z), and
    the full set, which would meet itself, is left out. Two modalities or more; it wants a fusion that all subsets
    share (deep_set, transformer). Time 32 (2 M + 1) B^2 d and
    2 (M + 1) fusions of B rows, memory M B d.

    Args:
        scale: factor on cosines: {init, learn, max}; fixed at ten, one over the temperature.
    """

    def __init__(self, modalities: Sequence[str], *, scale: Scale = Scale(init=10.0, learn=False)) -> None:
        super().__init__(scale)
        if len(modalities) < 2:
            raise ValueError(f"comm fuses two modalities or more, the model has {list(modalities)}")
        self.modalities, self.fuses_partly = tuple(modalities), True
        self.whole = Side(self.modalities, fused=True)
        self.alone = {m: Side((m,), fused=True) for m in modalities}
        self.all_sides = [*self.alone.values(), self.whole]

    def forward(self, z: Views, pool: Pool) -> Loss:
        """Contrast the first two views of each modality (a modality with one shows it twice), or the only one there
        is."""
        two = z[self.whole].z.shape[1] > 1
        swaps = ((0, 1), (1, 0)) if two else ((0, 0),)
        terms = {str(side): self._contrast(side, swaps, z, pool) for side in self.alone.values()}
        if two:
            terms[str(self.whole)] = self._contrast(self.whole, ((0, 1),), z, pool)
        total = torch.stack([found.loss for found in terms.values()]).mean()
        return Loss(scale_gradient(total, pool.world), shown(terms, self.scale()))

    def _contrast(self, side: Side, swaps: Sequence[tuple[int, int]], z: Views, pool: Pool) -> Contrasted:
        """Average over the pairs (view of the side, view of the whole)."""
        losses, positives = zip(*(self._nt_xent(side, v, w, z, pool) for v, w in swaps), strict=True)
        return Contrasted(torch.stack(losses).mean(), torch.stack(positives).mean())

    def _nt_xent(self, side: Side, v: int, w: int, z: Views, pool: Pool) -> Contrasted:
        """Contrast view v of the side with view w of the whole, over the samples that have both, as rows that
        alternate."""
        mine, everyone = self._partners(side, v, w, z), self._partners(side, v, w, pool.views)
        ids = pool.ids[pool.offset : pool.offset + len(mine.z)]
        x, y = all_rows(mine, ids), all_rows(everyone, pool.ids)
        loss = multi_positive_infonce(
            x.z,
            y.z,
            self.scale(),
            x.ids,
            y.ids,
            positives="each",
            exclude_self=True,
            symmetric=False,
            x_weight=x.weight,
            y_weight=y.weight,
            x_offset=2 * pool.offset,
            group=pool.group,
        )
        return Contrasted(loss, everyone.valid[:, 0].float().mean())

    def _partners(self, side: Side, v: int, w: int, views: Views) -> View:
        """Put the two together as views of one side: a pair exists when both do."""
        part, whole = views[side], views[self.whole]
        v %= part.z.shape[1]
        there = some_member([views[alone].valid for alone in self.alone.values()])[:, w]
        if side != self.whole:
            there = there & part.valid[:, v]
        return View(torch.stack([part.z[:, v], whole.z[:, w]], 1), there[:, None].expand(-1, 2))

    def query_sides(self, others: Sequence[str], target: str) -> list[Side]:
        """Ask by the fusion of all others, with the target masked."""
        if not self.alone.keys() >= {target, *others}:
            return []
        return [Side(tuple(m for m in self.modalities if m in others), fused=True)]

    def candidate_side(self, target: str) -> Side:
        """Search the target as the fusion sees it alone: it has no trained projection of its own."""
        return self.alone[target]
