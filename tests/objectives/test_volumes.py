"""GRAM and TRIANGLE: volumes against determinants and areas of every tuple of points, in float64."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from objective_problems import ABC, B, drop, leaves, pool, same, unit, views
from torch import Tensor

from workbench.objectives.gram import EPS, GRAM
from workbench.objectives.triangle import TRIANGLE
from workbench.terms import Scale
from workbench.types import View

pytestmark = pytest.mark.usefixtures("in_float64")


def gram_volume(rows: list[Tensor]) -> Tensor:
    G = torch.stack([torch.stack([x @ y for y in rows]) for x in rows])
    return torch.linalg.det(G + EPS * torch.eye(len(rows))).sqrt()


def triangle_area(rows: list[Tensor]) -> Tensor:
    u, v = rows[0] - rows[1], rows[0] - rows[2]
    return (u.square().sum() * v.square().sum() - (u @ v) ** 2) / 2


def by_pairs(volume: Callable[[list[Tensor]], Tensor], anchor: Tensor, others: list[Tensor], s: float) -> Tensor:
    """Cross-entropies of minus the volume of anchor i with the others of sample j, one pair at a time."""
    n = len(anchor)
    logits = torch.stack(
        [torch.stack([-s * volume([anchor[i], *(o[j] for o in others)]) for j in range(n)]) for i in range(n)]
    )
    target = torch.arange(n)
    return sum(F.cross_entropy(m, target, label_smoothing=0.1) for m in (logits, logits.T)) / 2  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "anchor"), [(2, "b"), (3, None), (3, "c"), (4, "b"), (5, "e")])
def test_gram_is_the_determinant_of_every_gram_matrix(size: int, anchor: str | None) -> None:
    names = tuple("abcde"[:size])
    z = views(names, b=7)
    first = anchor or "a"
    want = by_pairs(gram_volume, z[first].z[:, 0], [z[m].z[:, 0] for m in names if m != first], 6.0)
    same(GRAM(names, anchor=anchor, scale=Scale(init=6.0))(z, pool(z)).total, want, *leaves(z))


@pytest.mark.parametrize("anchor", ABC)
def test_triangle_is_the_area_between_three_points(anchor: str) -> None:
    z = views(ABC, b=9)
    want = by_pairs(triangle_area, z[anchor].z[:, 0], [z[m].z[:, 0] for m in ABC if m != anchor], 6.0)
    same(TRIANGLE(ABC, anchor=anchor, scale=Scale(init=6.0))(z, pool(z)).total, want, *leaves(z))


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_float32_knows_small_volumes(size: int, noise: float) -> None:
    """Determinants of nearly equal embeddings cancel: sums of products in float32 are wrong by .1 here at eight."""
    z = F.normalize(unit(11, 1, 32) + noise * torch.randn(11, size, 32) / math.sqrt(32), dim=-1).detach()
    x = z.float()
    got = GRAM(tuple("abcdefgh"[:size])).volume(x[:, 0], list(x[:, 1:].unbind(1)))
    for i, j in product(range(11), repeat=2):
        want = gram_volume([z[i, 0], *z[j, 1:]]).item()
        assert got[i, j].item() == pytest.approx(want, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_gradient_is_finite_where_embeddings_coincide(size: int, dtype: torch.dtype) -> None:
    names = tuple("abcd"[:size])
    z = views(names, dtype=dtype)
    with torch.no_grad():
        for m in names[1:]:  # all modalities of half the samples, two of the others
            z[m].z[:6] = z["a"].z[:6]
        z[names[-1]].z[6:] = z["a"].z[6:]
        z["a"].z[1] = z["a"].z[0]  # and two samples
    objectives = [GRAM(names), *([TRIANGLE(names)] if size == 3 else [])]
    for objective in objectives:
        objective.to(dtype)
        loss = objective(z, pool(z)).total
        gradients = torch.autograd.grad(loss, [*leaves(z), objective.log_scale])
        assert all(g.isfinite().all() for g in [loss, *gradients])
        assert all(g.abs().max() < 1e3 for g in gradients)


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_float32_is_close_to_float64(make: Callable[..., Any]) -> None:
    z = views(ABC, b=41, d=19)
    low = {m: View(v.z.float(), v.valid) for m, v in z.items()}
    rounded = make(ABC).float()(low, pool(low)).total
    torch.testing.assert_close(rounded.double(), make(ABC)(z, pool(z)).total, rtol=1e-4, atol=1e-4)


def test_two_modalities_of_gram_are_blind_to_the_sign() -> None:
    z = views(("a", "b"))
    flipped = z | {"b": View(-z["b"].z, z["b"].valid)}
    gram = GRAM(("a", "b"))
    torch.testing.assert_close(gram(flipped, pool(flipped)).total, gram(z, pool(z)).total)


def test_triangle_never_holds_a_number_for_every_pair_and_dimension() -> None:
    z, sizes = views(ABC, b=32, d=32), []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        TRIANGLE(ABC)(z, pool(z))
    assert max(sizes) <= 32 * 32


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_volumes_leave_out_samples_that_miss_a_modality(make: Callable[..., Any]) -> None:
    z, gone = views(ABC), {"b": torch.arange(B) % 4 == 0, "c": torch.arange(B) % 5 == 1}
    complete = ~(gone["b"] | gone["c"])
    alone = {m: View(v.z[complete], v.valid[complete]) for m, v in z.items()}
    partly = drop(z, gone)
    same(make(ABC)(partly, pool(partly)).total, make(ABC)(alone, pool(alone)).total, *leaves(z))
    nothing = drop(z, {"a": torch.ones(B, dtype=torch.bool)})
    assert make(ABC)(nothing, pool(nothing)).total == 0


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_equal_ids_share_the_target(make: Callable[..., Any]) -> None:
    z, ids = views(ABC), torch.randint(5, (B,))
    objective = make(ABC, scale=Scale(init=5.0), label_smoothing=0.3)
    others = [z[m].z[:, 0] for m in "bc"]
    logits = -5.0 * objective.volume(z["a"].z[:, 0], others)
    equal = ids[:, None] == ids
    target = equal / equal.sum(1, keepdim=True)
    want = sum(F.cross_entropy(m, target, label_smoothing=0.3) for m in (logits, logits.T)) / 2
    same(objective(z, pool(z, ids)).total, want, *leaves(z))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_the_score_is_minus_the_volume_with_every_candidate(make: Callable[..., Any]) -> None:
    z, objective = views(ABC, b=5), make(ABC)
    scores = objective.score({m: z[m] for m in objective.query_sides(("a", "b"), "c")}, {"c": z["c"]})
    volume = gram_volume if make is GRAM else triangle_area
    for i, j in product(range(5), repeat=2):
        rows = [z["a"].z[i, 0], z["b"].z[i, 0], z["c"].z[j, 0]]
        assert scores[i, j].item() == pytest.approx(-volume(rows).item(), abs=1e-9)


def test_one_modality_asks_triangle_by_cosine() -> None:
    z = views(ABC, b=5)
    torch.testing.assert_close(TRIANGLE(ABC).score({"a": z["a"]}, {"b": z["b"]}), z["a"].z[:, 0] @ z["b"].z[:, 0].T)
