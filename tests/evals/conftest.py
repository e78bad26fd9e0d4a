"""A world without a model: raw items are vectors, an embedding is their normalisation, a fusion their sum."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from workbench.types import Context, Items, Modality, Objective, Side, Split, View, Views


class Cosine(Objective):
    """Scores by cosine, averaged over the query's sides: every modality asks for every other."""

    def __init__(self, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.all_sides = [Side((m,)) for m in modalities]


def embed(inputs, sides) -> Views:
    views = {}
    for side in sides:
        members = [torch.stack([torch.as_tensor(x) for x in inputs[m]]) for m in side.members]
        z = F.normalize(torch.stack(members).sum(0).float(), dim=1)[:, None]
        views[side] = View(z, torch.ones(z.shape[:2], dtype=torch.bool))
    return views


@pytest.fixture
def world() -> Callable[..., Context]:
    """world({modality: (vectors, ids)}, ...) -> Context of a data set whose only split is `validation`."""

    def make(
        items: dict[str, tuple[torch.Tensor, Any]],
        *,
        targets: dict[str, Any] | None = None,
        classes: dict[str, Any] | None = None,
        paired: bool = False,
        objective: Any = None,
        seed: int = 0,
        lookup: Any = embed,
    ) -> Context:
        labels = {name: torch.tensor(t) for name, t in (targets or {}).items()}
        rows = {m: Items(list(x), torch.as_tensor(ids), labels) for m, (x, ids) in items.items()}
        split = Split(rows, classes or {}, paired)
        kinds = {m: Modality("text" if m == "text" else "vector") for m in items}
        data: Any = SimpleNamespace(modalities=kinds, split=lambda name: {"validation": split}[name])
        return Context(lookup, objective or Cosine(tuple(items)), data, batch=8, seed=seed)

    return make
