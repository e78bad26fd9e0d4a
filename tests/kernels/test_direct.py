"""Losses of plain tensors skip the dispatcher and are the operator's all the same; who watches operators meets them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_arguments import Arguments, Inside, assert_equal, random_arguments, run
from torch.nn.functional import normalize
from torch.overrides import TorchFunctionMode

import kernels
from kernels import direct, ops
from kernels.chunked import small
from kernels.chunked.positives import are_one_to_one

ROWS = ("row", "column")
LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")


def distinct(seed: int, n: int, scale: float = 14.0) -> Arguments:
    p = random_arguments(seed, n, n, 7, scale, num_ids=1)
    return replace(p, x_ids=torch.randperm(1000)[:n], y_ids=torch.arange(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_the_operator_bit_for_bit(loss, dtype, seed, monkeypatch):
    p = random_arguments(seed, 23, 17, 7, 14.0, num_ids=9).to(dtype)
    monkeypatch.setattr(small, "CELLS", 0)  # a small contrast_lse has its gradient from what it kept
    got = run(loss, p, -2.5)
    monkeypatch.setattr(direct, "may_skip_dispatcher", lambda problem: False)
    assert_equal(got, run(loss, p, -2.5), 0.0)


class Subclass(torch.Tensor):
    pass


class Watching(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Seeing(Inside):
    def seen(self, func, result): ...


@pytest.mark.parametrize(
    "how", ["plain", "subclass", "function mode", pytest.param("dispatch mode", marks=pytest.mark.slow), "vmap"]
)
def test_who_watches_operators_meets_them(how, seed, monkeypatch):
    calls, called = [], ops.infonce_op
    monkeypatch.setattr(ops, "infonce_op", lambda *args, **options: calls.append(1) or called(*args, **options))
    p = distinct(seed, 5)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return kernels.multi_positive_infonce(x, p.y, 14.0, p.x_ids, p.x_ids)

    if how == "vmap":
        torch.vmap(loss)(p.x[None])
    elif "mode" in how:
        with Watching() if how == "function mode" else Seeing():
            loss(p.x)
    else:
        loss(p.x.as_subclass(Subclass) if how == "subclass" else torch.nn.Parameter(p.x))
    assert bool(calls) == (how != "plain")


@pytest.mark.parametrize("scale", [0.5, 14.0, -80.0])
@pytest.mark.parametrize("exclude", ["none", "group"])
@pytest.mark.parametrize("upstream", ["row", "column", "both"])
def test_a_small_lse_is_that_of_the_oracle(exclude, upstream, scale, seed):
    """Rows alone, columns alone and both have a way of their own; below -55 logits have another reference than 0."""
    p, found = distinct(seed, 41, scale), []
    draw = torch.Generator().manual_seed(seed)
    g, h = (torch.randn(41, generator=draw, dtype=torch.float64) * (upstream in (side, "both")) for side in ROWS)
    for backend in ("auto", "reference"):
        x, y, t = (v.detach().clone().requires_grad_() for v in (p.x, p.y, torch.tensor(scale).double()))
        lse = kernels.contrast_lse(x, y, t, exclude=exclude, x_ids=p.y_ids, y_ids=p.y_ids, backend=backend)
        value = sum(w @ v for w, v in zip((g, h), lse, strict=True) if w.any())
        value.backward(retain_graph=True)
        value.backward()  # twice: what is kept for the gradients is left as it was
        found.append({"row": lse[0], "column": lse[1], "x": x.grad, "y": y.grad, "scale": t.grad})
    assert_equal(*found, 1e-12)


@pytest.mark.parametrize(
    ("change", "is_small"),
    [
        ({}, True),
        ({"y_ids": torch.arange(9).flip(0)}, False),
        ({"y_ids": torch.zeros(9, dtype=torch.int64), "x_ids": torch.zeros(9, dtype=torch.int64)}, False),
        ({"exclude": "self"}, False),
        ({"exclude": "none"}, True),
    ],
)
def test_which_lse_is_small(change, is_small, seed, monkeypatch):
    p, seen = distinct(seed, 9), []
    reduce = small.reduce_small
    monkeypatch.setattr(small, "reduce_small", lambda problem: seen.append(reduce(problem)) or seen[-1])
    options = {"exclude": "group", "x_ids": p.y_ids, "y_ids": p.y_ids} | change
    kernels.contrast_lse(p.x, p.y, p.scale, **options)
    assert (seen[0] is not None) == is_small
    monkeypatch.setattr(small, "CELLS", 80)
    seen.clear()
    kernels.contrast_lse(p.x, p.y, p.scale, **options)
    assert seen[0] is None


def test_ids_that_were_written_into_are_looked_at_again():
    ids = torch.arange(6)
    assert are_one_to_one(ids, ids)
    ids[2] = 5
    assert not are_one_to_one(ids, ids)
    assert are_one_to_one(torch.arange(6), torch.arange(6))
    shared = np.arange(6)
    ids = torch.from_numpy(shared)
    assert are_one_to_one(ids, ids)
    shared[2] = 5  # which torch does not see
    assert not are_one_to_one(ids, ids)
    with torch.inference_mode():  # where torch counts no versions
        ids = torch.arange(6)
        assert are_one_to_one(ids, ids)
        ids[2] = 5
        assert not are_one_to_one(ids, ids)


def test_large_logits_cost_no_gradient():
    """Near the end of float32 an upstream gradient divided by a sum would leave its normal numbers."""
    draw = torch.Generator().manual_seed(4)
    x = normalize(torch.randn(64, 5, generator=draw, dtype=torch.float64), dim=1) * 86**0.5
    y = x.flip(0)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = x.to(dtype).requires_grad_()
        row, _ = kernels.contrast_lse(leaf, y.to(dtype), torch.tensor(1.0, dtype=dtype))
        (gradient,) = torch.autograd.grad(row.sum() * (1e-3 / 64), leaf)
        gradients.append(gradient.double())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=3e-5, atol=3e-5 * float(gradients[0].abs().max()))


@pytest.mark.parametrize("side", [0, 1])
def test_a_batch_of_upstream_gradients(side):
    x, y = (normalize(torch.randn(6, 3, dtype=torch.float64), dim=1) for _ in range(2))

    def lse(x: torch.Tensor) -> torch.Tensor:
        return kernels.contrast_lse(x, y, 10.0)[side]

    one_by_one, at_once = (torch.autograd.functional.jacobian(lse, x, vectorize=v) for v in (False, True))
    torch.testing.assert_close(at_once, one_by_one)
