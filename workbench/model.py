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
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from workbench.types import Encoder, Features, Fusion, Option, Side, View, Views


class Model(nn.Module):
    """Encoders, second heads (under the names of their sides) and a fusion module, where a side is fused."""

    def __init__(self, encoders: dict[str, Encoder], heads: dict[str, nn.Module], fusion: Fusion | None) -> None:
        super().__init__()
        self.encoders: Mapping[str, Encoder] = cast(Any, nn.ModuleDict(encoders))
        self.heads, self.fusion = nn.ModuleDict(heads), fusion

    def forward(
        self,
        inputs: Mapping[str, Shaped[Tensor, "n k ..."]],
        valid: Mapping[str, Bool[Tensor, "n k"]],
        sides: Sequence[Side],
    ) -> Views:
        """Embed raw inputs {modality: [n, k, ...]} as the sides that are asked for, in unit rows.

        Raises ValueError where a side is fused and the model has no fusion module.
        """
        sides = [Side.parse(side) for side in sides]  # names do as well, for people who ask a model by hand
        if self.fusion is None and (fused := [str(side) for side in sides if side.fused]):
            raise ValueError(
                f"this model has no fusion module, so it has no {', '.join(fused)}: it exists only while training"
            )
        features = {m: self._encode(m, inputs[m], sides) for m in dict.fromkeys(m for s in sides for m in s.members)}
        return {side: self._view(side, features, valid) for side in sides}

    def learns(self, side: Side) -> bool:
        """Whether anything that makes this side's embeddings is trained."""
        parts: list[nn.Module] = [self.encoders[m] for m in side.members]
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
            z = self.heads[name](features[modality].pooled) if name in self.heads else features[modality].z
            exists = valid[modality]
        z = F.normalize(z.float(), dim=-1)
        return View(z.unflatten(0, exists.shape), exists)

    def _fuse(self, side: Side, features: Mapping[str, Features], valid: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        chosen = view_indices([valid[m].shape[1] for m in side.members], "all" if "all" in side.options else "zip")
        present, inputs = {}, {}
        for modality, views in zip(side.members, chosen, strict=True):
            present[modality] = _take(valid[modality], views)
            inputs[modality] = _detach(_select(features[modality], valid[modality].shape, views), side.options)
        exists = torch.stack(list(present.values())).all(0)
        assert self.fusion is not None
        bare = replace(side, options=frozenset())
        return self.fusion(bare, inputs, {m: p.flatten() for m, p in present.items()}), exists


def view_indices(counts: Sequence[int], views: Literal["zip", "all"]) -> list[list[int]]:
    """List, for each member, the view that every fused embedding takes: zipped (shorter ones repeat), or all
    combinations."""
    if views == "zip":
        return [[k % count for k in range(max(counts))] for count in counts]
    return [list(column) for column in zip(*product(*map(range, counts)), strict=True)]


def _select(features: Features, shape: torch.Size, views: list[int]) -> Features:
    """Choose these views of each sample: [n*k, ...] -> [n*len(views), ...]."""
    if views == list(range(shape[1])):
        return features

    def pick(x: Tensor | None) -> Tensor | None:
        return None if x is None else _take(x.unflatten(0, shape), views).flatten(0, 1)

    z, pooled = pick(features.z), pick(features.pooled)
    assert z is not None
    assert pooled is not None
    return replace(features, z=z, pooled=pooled, tokens=pick(features.tokens), mask=pick(features.mask))


def _take(x: Tensor, views: list[int]) -> Tensor:
    """Choose views: [n, k, ...] -> [n, len(views), ...]."""
    # by slices, as a list for an index would wait for a GPU
    return x if views == list(range(x.shape[1])) else torch.stack([x[:, k] for k in views], dim=1)


def _detach(features: Features, options: frozenset[Option]) -> Features:
    """Stop the gradient at what the side's options name."""
    if "tokens" in options:
        tokens = None if features.tokens is None else features.tokens.detach()
        features = replace(features, z=features.z.detach(), pooled=features.pooled.detach(), tokens=tokens)
    if "positions" in options and features.positions is not None:
        features = replace(features, positions=features.positions.detach())
    return features
