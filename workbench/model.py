"""The model: encoders, heads and fusion. A per-sample map, and the only place that normalises.

That row i of the output depends on row i of the input alone is what makes gathering, micro-batches and chunked kernels
exact; a fusion that mixes samples would silently break all three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor, nn

from workbench.types import Encoder, Features, Fusion, Option, Side, View, Views


class Model(nn.Module):
    """Encoders, second heads (under the names of their sides) and a fusion module, where a side is fused."""

    def __init__(self, encoders: dict[str, Encoder], heads: dict[str, nn.Module], fusion: Fusion | None) -> None:
        super().__init__()
        self.encoders: Mapping[str, Encoder] = cast(Any, nn.ModuleDict(encoders))
        self.heads, self.fusion = nn.ModuleDict(heads), fusion
        for encoder in encoders.values():
            encoder.padding_is_read = fusion is not None and fusion.reads_padding

    def forward(
        self,
        inputs: Mapping[str, Shaped[Tensor, "n k ..."]],
        valid: Mapping[str, Bool[Tensor, "n k"]],
        sides: Sequence[Side],
        reseed: Callable[[str], None] = lambda _: None,
    ) -> Views:
        """Embed raw inputs {modality: [n, k, ...]} as the sides that are asked for, in unit rows.

        `reseed` is called with the name of each part right before it runs: what an encoder or the fusion then draws,
        as dropout does, need not depend on which other parts run.

        Raises ValueError where a side is fused and the model has no fusion module.
        """
        sides = [Side.parse(side) for side in sides]  # names do as well, for people who ask a model by hand
        if self.fusion is None and (fused := [str(side) for side in sides if side.fused]):
            raise ValueError(
                f"this model has no fusion module, so it has no {', '.join(fused)}: it exists only while training"
            )
        features = {}
        for modality in dict.fromkeys(m for side in sides for m in side.members):
            reseed(f"encoder {modality}")
            features[modality] = self._encode(modality, inputs[modality], sides)
        views = {}
        for side in sides:
            if side.fused:
                reseed(f"fusion {side}")
            views[side] = self._view(side, features, valid)
        return views

    def learns(self, side: Side) -> bool:
        """Whether anything that makes this side's embeddings is trained."""
        parts: list[nn.Module] = [self.encoders[m].holder for m in side.members]
        if side.fused and self.fusion is not None:
            parts.append(self.fusion)
        elif str(side) in self.heads:
            parts.append(self.heads[str(side)])
        return any(p.requires_grad for part in parts for p in part.parameters())

    def _encode(self, modality: str, x: Tensor, sides: Sequence[Side]) -> Features:
        fused = any(side.fused and modality in side.members for side in sides)
        rows = x.flatten(0, 1)
        if fused and self.fusion is not None and self.fusion.needs_tokens:
            return self.encoders[modality](rows, tokens=True)
        return self.encoders[modality](rows)

    def _view(self, side: Side, features: Mapping[str, Features], valid: Mapping[str, Tensor]) -> View:
        if side.fused:
            z, exists = self._fuse(side, features, valid)
        else:
            (modality,) = side.members
            name = str(side)
            if side.head and name not in self.heads:
                have = ", ".join(self.heads) or "none"
                raise ValueError(f"this model has no head '{name}': no term of its objective names it (it has {have})")
            z = self.heads[name](features[modality].pooled) if name in self.heads else features[modality].z
            exists = valid[modality]
        z = F.normalize(z.float(), dim=-1)
        return View(z.unflatten(0, exists.shape), exists)

    def _fuse(self, side: Side, features: Mapping[str, Features], valid: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse the members' features, view by view: rows [n * k, d], and which of them exist, [n, k]."""
        assert self.fusion is not None
        combine = all_combinations if "all" in side.options else zipped
        views, present = combine([valid[m] for m in side.members])
        inputs, there = {}, {}
        for m, chosen, exist in zip(side.members, views, present, strict=True):
            inputs[m] = _detach(_select(features[m], valid[m].shape, chosen), side.options)
            there[m] = exist.flatten()
        return self.fusion(side.without_options, inputs, there), torch.stack(present).all(0)


Combination = tuple[list[Int64[Tensor, "n k"]], list[Bool[Tensor, "n k"]]]
"""for each member of a side, the view of it that every fused row takes, and whether the row has that member"""


def zipped(valid: Sequence[Bool[Tensor, "n _"]]) -> Combination:
    """Fuse view v of a sample with view v of its other members, each modulo the number of views that this sample has.

    A sample has as many fused rows as its richest member has views: in more, two would be the same.
    """
    if all(v.shape[1] == 1 for v in valid):  # nothing to choose: the one view of each member, where it is there
        return [torch.zeros_like(v, dtype=torch.int64) for v in valid], list(valid)
    rows = torch.arange(max(v.shape[1] for v in valid), device=valid[0].device)
    counts = torch.stack([v.sum(1) for v in valid])
    exist = rows < counts.amax(0)[:, None]
    views, present = [], []
    for v, count in zip(valid, counts, strict=True):
        place = rows % count.clamp(min=1)[:, None]  # n x k: among the views that are there
        is_it = v[:, None] & (v.cumsum(1)[:, None] - 1 == place[:, :, None])  # n x k x views of this member
        views.append(is_it.int().argmax(2))
        present.append(exist & (count > 0)[:, None])
    return views, present


def all_combinations(valid: Sequence[Bool[Tensor, "n _"]]) -> Combination:
    """Fuse every view of each member with every view of the others, the last member's views running fastest."""
    counts = [v.shape[1] for v in valid]
    rows = torch.arange(math.prod(counts), device=valid[0].device)
    repeats = [math.prod(counts[i + 1 :]) for i in range(len(counts))]
    views = [(rows // r % v.shape[1]).expand(len(v), -1) for r, v in zip(repeats, valid, strict=True)]
    return views, [v.gather(1, chosen) for v, chosen in zip(valid, views, strict=True)]


def _select(features: Features, shape: torch.Size, views: Int64[Tensor, "n k"]) -> Features:
    """Choose the views of each sample: features of [n * m, ...] become features of [n * k, ...]."""

    def pick(x: Tensor | None) -> Tensor | None:
        return None if x is None else _take(x.unflatten(0, shape), views).flatten(0, 1)

    if shape[1] == views.shape[1] == 1:
        return features
    z, pooled = pick(features.z), pick(features.pooled)
    assert z is not None
    assert pooled is not None
    return replace(features, z=z, pooled=pooled, tokens=pick(features.tokens), mask=pick(features.mask))


def _take(x: Shaped[Tensor, "n m ..."], views: Int64[Tensor, "n k"]) -> Shaped[Tensor, "n k ..."]:
    """Choose views of each sample."""
    chosen = x[:, :1].expand(-1, views.shape[1], *x.shape[2:])
    # not by an index, whose gradient a GPU adds up in an order that changes from run to run
    for view in range(1, x.shape[1]):
        chosen = torch.where((views == view).unflatten(1, (-1, *[1] * (x.ndim - 2))), x[:, view : view + 1], chosen)
    return chosen


def _detach(features: Features, options: frozenset[Option]) -> Features:
    """Stop the gradient at what the side's options name."""
    if "tokens" in options:
        tokens = None if features.tokens is None else features.tokens.detach()
        features = replace(features, z=features.z.detach(), pooled=features.pooled.detach(), tokens=tokens)
    if "positions" in options and features.positions is not None:
        features = replace(features, positions=features.positions.detach())
    return features
