"""The model: encoders, heads and fusion. A per-sample map, and the only place that normalises.

That row i of the output depends on row i of the input alone is what makes gathering, micro-batches and chunked kernels
exact; a fusion that mixes samples would silently break all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.types import Encoder, Features, Fusion, Side, View, Views


class Model(nn.Module):
    """Raw inputs to unit embeddings of the sides that are asked for.

    Args of forward: inputs {modality: [n, k, ...]}, valid {modality: bool [n, k]}, names of the sides.
    """

    def __init__(self, encoders: dict[str, Encoder], heads: dict[str, nn.Module], fusion: Fusion | None) -> None:
        super().__init__()
        self.encoders: Mapping[str, Encoder] = cast(Any, nn.ModuleDict(encoders))
        self.heads, self.fusion = nn.ModuleDict(heads), fusion

    def forward(self, inputs: dict[str, Tensor], valid: dict[str, Tensor], sides: Sequence[str]) -> Views:
        wanted = [Side.parse(side) for side in sides]
        if self.fusion is None and any(side.fused for side in wanted):
            raise ValueError(f"this model has no fusion module, so it has no {sides}: it exists only while training")
        features = {m: self._encode(m, inputs[m], wanted) for m in dict.fromkeys(m for s in wanted for m in s.members)}
        return {str(side): self._view(side, features, valid) for side in wanted}

    def learns(self, side: str) -> bool:
        """Whether anything that makes this side's embeddings is trained."""
        parsed = Side.parse(side)
        parts: list[nn.Module] = [self.encoders[m] for m in parsed.members]
        if parsed.fused and self.fusion is not None:
            parts.append(self.fusion)
        elif side in self.heads:
            parts.append(self.heads[side])
        return any(p.requires_grad for part in parts for p in part.parameters())

    def _encode(self, modality: str, x: Tensor, sides: list[Side]) -> Features:
        fused = any(side.fused and modality in side.members for side in sides)
        rows = x.flatten(0, 1)
        if fused and self.fusion is not None and self.fusion.needs_tokens:
            return self.encoders[modality](rows, tokens=True)
        return self.encoders[modality](rows)

    def _view(self, side: Side, features: dict[str, Features], valid: dict[str, Tensor]) -> View:
        if side.fused:
            z, exists = self._fuse(side, features, valid)
        else:
            (modality,) = side.members
            name = str(side)
            z = self.heads[name](features[modality].pooled) if name in self.heads else features[modality].z
            exists = valid[modality]
        z = F.normalize(z.float(), dim=-1)
        return View(z.unflatten(0, exists.shape), exists)

    def _fuse(self, side: Side, features: dict[str, Features], valid: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        chosen = view_indices([valid[m].shape[1] for m in side.members], "all" if "all" in side.options else "zip")
        present, inputs = {}, {}
        for modality, views in zip(side.members, chosen, strict=True):
            present[modality] = _take(valid[modality], views)
            inputs[modality] = _detach(_select(features[modality], valid[modality].shape, views), side.options)
        exists = torch.stack(list(present.values())).all(0)
        assert self.fusion is not None
        fused = self.fusion(
            str(replace(side, options=frozenset())), inputs, {m: p.flatten() for m, p in present.items()}
        )
        return fused, exists


def view_indices(counts: Sequence[int], views: Literal["zip", "all"]) -> list[list[int]]:
    """For each member, the view that every fused embedding takes: zipped (shorter ones repeat) or all combinations."""
    if views == "zip":
        return [[k % count for k in range(max(counts))] for count in counts]
    return [list(column) for column in zip(*product(*map(range, counts)), strict=True)]


def _select(features: Features, shape: torch.Size, views: list[int]) -> Features:
    """Features of these views of each sample: [n*k, ...] -> [n*len(views), ...]."""
    if views == list(range(shape[1])):
        return features

    def pick(x: Tensor | None) -> Tensor | None:
        return None if x is None else _take(x.unflatten(0, shape), views).flatten(0, 1)

    z, pooled = pick(features.z), pick(features.pooled)
    assert z is not None
    assert pooled is not None
    return replace(features, z=z, pooled=pooled, tokens=pick(features.tokens), mask=pick(features.mask))


def _take(x: Tensor, views: list[int]) -> Tensor:
    """[n, k, ...] -> [n, len(views), ...], by slices: a list as an index would wait for a GPU."""
    return x if views == list(range(x.shape[1])) else torch.stack([x[:, k] for k in views], dim=1)


def _detach(features: Features, options: frozenset[str]) -> Features:
    if "tokens" in options:
        tokens = None if features.tokens is None else features.tokens.detach()
        features = replace(features, z=features.z.detach(), pooled=features.pooled.detach(), tokens=tokens)
    if "positions" in options and features.positions is not None:
        features = replace(features, positions=features.positions.detach())
    return features
