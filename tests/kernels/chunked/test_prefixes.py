"""All prefixes of a loss from one pass: the sum of the losses of unit prefixes, from the products of one loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from loss_arguments import Arguments, Inside, assert_equal, random_arguments, run
from torch import Tensor
from torch.nn.functional import normalize

import kernels
import kernels.chunked.logits
import kernels.chunked.positives
from kernels.chunked import prefixes as one_pass

LOSSES = ("mean", "logsum", "each", "sigmoid")
M, N, D = 13, 19, 11
SIDES = (("x", M), ("y", N))
WITH_THE_WHOLE, WITHOUT = {11: 2.0, 3: 1.0, 7: 0.5}, [5, 2]


def draw_options(seed: int, feature: str) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)

    weights = {f"{s}_weight": torch.randint(0, 3, (n,), generator=draw) * 0.5 for s, n in SIDES}
    log_weights = {f"{s}_log_weight": torch.randn(n, generator=draw) for s, n in SIDES}
    guides = {f"{s}_guide": normalize(torch.randn(n, 3, generator=draw), dim=1) for s, n in SIDES}
    return {
        "plain": {},
        "weights": weights,
        "itself": {"exclude_self": True, "x_offset": 4},
        "rows": {"symmetric": False},
        "smoothing": {"label_smoothing": 0.17},
        "hardness": {"hardness": 5.0} | log_weights,
        "log-weights of rows": {"symmetric": False} | log_weights,
        "guided": {"false_negative_margin": 0.1} | guides,
    }[feature]


def sum_by_hand(loss: str, p: Arguments, upstream: float, prefixes: Any, **options: Any) -> dict[str, Tensor]:
    """Computes the sum of dense losses, with a gradient by autograd through the lengths."""
    weights = prefixes if isinstance(prefixes, dict) else dict.fromkeys(prefixes, 1.0)
    leaves = {name: getattr(p, name).detach().double().requires_grad_() for name in ("x", "y", "scale", "bias")}
    x, y, t, b = leaves.values()
    total = torch.zeros((), dtype=torch.float64)
    for size, weight in weights.items():
        u, v = (z if size == z.shape[1] else normalize(z[:, :size], dim=1) for z in (x, y))
        if loss == "sigmoid":
            value = kernels.reference.multi_positive_sigmoid(u, v, t, b, p.x_ids, p.y_ids, **options)
        else:
            options = options | {"backend": "reference", "positives": loss}
            value = kernels.multi_positive_infonce(u, v, t, p.x_ids, p.y_ids, **options)
        total = total + weight * value
    (total * upstream).backward()
    found = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"value": total.detach()} | found


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lists the losses that took one pass."""
    calls: list[str] = []
    for name in ("infonce", "sigmoid"):
        solve = getattr(one_pass, name)
        monkeypatch.setattr(one_pass, name, lambda c, n=name, f=solve: calls.append(n) or f(c))
    return calls


QUICK = [(loss, feature) for loss in LOSSES for feature in ("plain", "weights")] + [("mean", "rows"), ("each", "rows")]
REST = [
    *[(loss, feature) for loss in LOSSES[:3] for feature in ("smoothing", "hardness", "log-weights of rows", "guided")],
    *[(loss, "itself") for loss in LOSSES],
    ("logsum", "rows"),
]


@pytest.mark.parametrize(("loss", "feature"), [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in REST)])
def test_prefixes_are_the_sum_of_their_losses(loss, feature, seed, seen, small_chunks, monkeypatch):
    """By chunks of 3 rows, of which the first of the whole's are kept, and blocks of 2 to 4 dimensions."""
    monkeypatch.setattr(kernels.chunked.positives, "FEW", 16 * (seed % 2))
    p, options = random_arguments(seed, M, N, D, 9.0, num_ids=3), draw_options(seed, feature)
    for prefixes, dtype in ((WITH_THE_WHOLE, torch.float64), (WITHOUT, torch.float64), (WITH_THE_WHOLE, torch.float32)):
        want = sum_by_hand(loss, p, -2.5, prefixes, **options)
        got = run(loss, p.to(dtype), -2.5, backend="chunked", prefixes=prefixes, **options)
        assert_equal(got, want, 1e-12 if dtype == torch.float64 else 1e-4, (seed, prefixes, dtype))
    assert seen == ["sigmoid" if loss == "sigmoid" else "infonce"] * 3


@pytest.mark.parametrize("loss", ["mean", "sigmoid"])
def test_a_backend_without_one_pass_takes_a_loss_a_prefix(loss, seed, seen):
    p = random_arguments(seed, M, N, D, 9.0, num_ids=3)
    got = run(loss, p, -2.5, backend="reference", prefixes=WITH_THE_WHOLE)
    assert_equal(got, sum_by_hand(loss, p, -2.5, WITH_THE_WHOLE), 1e-12, seed)
    assert not seen


@pytest.mark.parametrize("wanted", ["x", "y", "scale"])
@pytest.mark.parametrize("loss", ["mean", "sigmoid"])
def test_one_gradient_alone(loss, wanted, seed, small_chunks):
    p = random_arguments(seed, M, N, D, 9.0, num_ids=3)
    want = sum_by_hand(loss, p, 1.5, WITH_THE_WHOLE)
    got = run(loss, p, 1.5, wanted, backend="chunked", prefixes=WITH_THE_WHOLE)
    assert_equal(got, {name: want[name] for name in ("value", wanted)}, 1e-12, seed)


@pytest.mark.parametrize("scale", [-9.0, 0.0, 400.0])
def test_logits_may_be_of_any_size(scale, seed, small_chunks):
    """At 400 one exponential does not serve rows and columns alike."""
    p = replace(random_arguments(seed, M, N, D, 9.0, num_ids=3), scale=torch.tensor(scale, dtype=torch.float64))
    for loss in ("mean", "each"):
        got = run(loss, p.to(torch.float32), backend="chunked", prefixes=WITH_THE_WHOLE)
        assert_equal(got, sum_by_hand(loss, p, 1.0, WITH_THE_WHOLE), 1e-5 * max(1.0, scale), (seed, loss))


def test_kept_exponentials_are_given_up_for_what_is_far_apart(seed, small_chunks):
    """Rows of the first chunks point where all columns do, and the last away from them: S is 100 and -100 there."""
    p = random_arguments(seed, M, N, D, 100.0, num_ids=3)
    x, y = normalize(0.1 * p.x + 1, dim=1), normalize(0.1 * p.y + 1, dim=1)
    p = replace(p, x=torch.cat([x[:-2], -x[-2:]]), y=y)
    got = run("mean", p.to(torch.float32), backend="chunked", prefixes=WITH_THE_WHOLE)
    assert_equal(got, sum_by_hand("mean", p, 1.0, WITH_THE_WHOLE), 1e-4, seed)


def test_a_prefix_without_length_is_as_normalize_takes_it(seed, small_chunks):
    """Rows of any length, of which some begin with zeros, and some are shorter than what normalize divides by."""
    p = random_arguments(seed, M, N, D, 9.0, num_ids=3)
    x, y = 3 * p.x, 0.2 * p.y
    x[2, :2], x[3, :5], y[4] = 0, 0, 0
    x[5, :2] *= 1e-13
    p = replace(p, x=x, y=y)
    got = run("mean", p, backend="chunked", prefixes=WITHOUT)
    assert_equal(got, sum_by_hand("mean", p, 1.0, WITHOUT), 1e-12, seed)


class Flops(Inside):
    """Counts the multiplications and additions of matrix products."""

    total = 0

    def seen(self, func, result):
        if func._opname in ("mm", "addmm", "addmm_"):
            self.total += self.size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._opname in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.size = 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize(("loss", "symmetric"), [("mean", True), ("mean", False), ("each", False), ("sigmoid", None)])
def test_products_are_those_of_one_loss(loss, symmetric, seed):
    """Of two passes the whole's logits are kept, and the shorter prefixes' products formed again."""
    options = {} if symmetric is None else {"symmetric": symmetric}
    p = random_arguments(seed, 40, 30, 64, 9.0, num_ids=20, backend="chunked", **options)
    with Flops() as flops:
        run(loss, p, prefixes=[8, 16, 64])
    again = 2 * 40 * 30 * 16 if symmetric else 0
    assert flops.total == 6 * 40 * 30 * 64 + again
