"""Alignment and uniformity of centroids, and a fused side as a teacher, against formulas written out by hand."""

import math
from typing import Any

import pytest
import torch
from objective_problems import ABC, clip, leaves, pool, same, views
from torch import Tensor

from workbench.objectives.modgap import ModGap
from workbench.objectives.terms import Terms
from workbench.terms import Scale, Term
from workbench.types import View, Views

pytestmark = pytest.mark.usefixtures("in_float64")
AB = ("a", "b")


def centroids_apart(u: Tensor, w: Tensor, ids: Tensor) -> Tensor:
    """The loss as a double loop over samples."""
    c = (u + w) / 2
    kernel = [
        torch.exp(-2 * (c[i] - c[j]).square().sum()) for i in range(len(u)) for j in range(len(u)) if ids[i] != ids[j]
    ]
    spread = torch.stack(kernel).mean().log() if kernel else torch.zeros(())
    return (u - w).square().sum(1).mean() + spread


def only(*names: str, **options: Any) -> Terms:
    return Terms(names, terms=[Term(between=(names[0], names[1]), loss="align_uniform", **options)])


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [False, True])
def test_modgap_is_clip_with_centroids_apart(repeats: bool) -> None:
    z = views(ABC)
    ids = torch.randint(5, (13,)) if repeats else torch.arange(13)
    want: Any = 0
    for x, y in ("ab", "ac", "bc"):
        u, w = z[x].z[:, 0], z[y].z[:, 0]
        want = want + 0.7 * centroids_apart(u, w, ids)
        if not repeats:
            want = want + clip(u, w, 9.0)
    objective = ModGap(ABC, weight=0.7, scale=Scale(init=9.0)) if not repeats else None
    if objective is None:
        terms = [Term(between=(x, y), loss="align_uniform", weight=0.7) for x, y in ("ab", "ac", "bc")]
        objective = Terms(ABC, terms=terms)
    same(objective(z, pool(z, ids)).total, want, *leaves(z))


def test_views_are_paired_each_with_each_over_the_samples_that_have_both() -> None:
    z = views(["a"], k=2) | views(["b"], k=3)
    z = {side: View(v.z, torch.rand(v.valid.shape) < 0.7) for side, v in z.items()}
    total, count = torch.zeros(()), 0
    for v in range(2):
        for t in range(3):
            both = z["a"].valid[:, v] & z["b"].valid[:, t]
            n = int(both.sum())
            if n:
                u, w = z["a"].z[both, v], z["b"].z[both, t]
                total, count = total + n * centroids_apart(u, w, torch.arange(n)), count + n
    same(only(*AB)(z, pool(z)).total, total / count, *leaves(z))


@pytest.mark.parametrize("case", ["one id", "no pair"])
def test_where_nothing_can_spread_the_gradient_is_finite(case: str) -> None:
    z = views(AB)
    if case == "no pair":
        z["b"].valid[:] = False
    loss = only(*AB)(z, pool(z, torch.zeros(13, dtype=torch.int64))).total
    loss.backward()
    found = [view.z.grad for view in z.values()]
    assert all(g is not None and g.isfinite().all() for g in found)
    u, w = z["a"].z[:, 0], z["b"].z[:, 0]
    assert float(loss) == pytest.approx(float((u - w).square().sum(1).mean()) if case == "one id" else 0.0)


def test_it_is_least_where_pairs_meet_and_are_spread_evenly() -> None:
    """On a simplex of n corners every distance is the same, 2n / (n - 1)."""
    corners = torch.eye(6) - 1 / 6
    corners = (corners / corners.norm(dim=1, keepdim=True))[:, None]
    z: Views = {side: View(corners.clone(), torch.ones(6, 1, dtype=torch.bool)) for side in views(AB)}
    assert float(only(*AB)(z, pool(z)).total) == pytest.approx(-2 * 2 * 6 / 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": ("a", "a")}, "stands on both"),
        ({"between": AB, "positives": "each"}, "'each' does not apply"),
        ({"between": AB, "scale": Scale()}, "has no scale"),
        ({"between": AB, "detach": ("scale",)}, "has no scale"),
    ],
)
def test_options_that_mean_nothing_for_centroids_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Term(loss="align_uniform", **options)


# a fused side as a teacher


def taught(**options: Any) -> Terms:
    """image+text learns from its own two views, and teaches what image is."""
    own = Term(between=("a+b", "a+b"))
    return Terms(AB, terms=[own, Term(between=("a", "a+b"), detach=("fused",), **options)], scale=Scale(init=9.0))


@pytest.mark.parametrize("positives", [None, "each"])
def test_a_teacher_gets_no_gradient_from_what_it_teaches(positives: Any) -> None:
    z = views(["a", "a+b"], k=2)
    objective = taught(positives=positives)
    both = objective(z, pool(z))
    free = Terms(AB, terms=[Term(between=("a", "a+b"), positives=positives)], scale=Scale(init=9.0))
    alone = Terms(AB, terms=objective.terms[:1], scale=Scale(init=9.0))
    torch.testing.assert_close(both.total, alone(z, pool(z)).total + free(z, pool(z)).total)
    mine = torch.autograd.grad(3.7 * both.total, leaves(z))
    (student,) = torch.autograd.grad(3.7 * free(z, pool(z)).total, [z["a"].z])
    (teacher,) = torch.autograd.grad(3.7 * alone(z, pool(z)).total, [z["a+b"].z])
    torch.testing.assert_close(mine[0], student)
    torch.testing.assert_close(mine[1], teacher)
    assert math.isfinite(float(both.total))


@pytest.mark.parametrize("between", [("a", "b"), ("a+b", "a+b"), ("a+b", "b+c")])
def test_one_side_teaches_one_that_is_not_fused(between: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="lets a fused side teach one that is not"):
        Term(between=between, detach=("fused",))


def test_a_teacher_that_nobody_trains_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing trains the fusion that teaches"):
        Terms(AB, terms=[Term(between=AB), Term(between=("a", "a+b"), detach=("fused",))])
