"""The chunked backend takes arguments in any form: strides, dtypes, numbers and tensors, one tensor as both sides."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from loss_arguments import assert_equal, random_arguments, run
from torch.nn.functional import normalize

import kernels

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")


@pytest.mark.parametrize("loss", LOSSES)
def test_x_is_y(loss, small_chunks):
    """A set is contrasted with itself: the gradient goes through both arguments, the scale's through one."""
    z = normalize(torch.randn(23, 4, dtype=torch.float64), dim=1)
    ids = torch.arange(23) // 2

    def gradients(**options):
        x, t = z.clone().requires_grad_(), torch.tensor([8.0], dtype=torch.float64, requires_grad=True)
        if loss == "contrast_lse":
            row, column = kernels.contrast_lse(x, x, t, exclude="self", **options)
            value = row.sum() - 3 * column.sum()
        elif loss == "sigmoid":
            value = kernels.multi_positive_sigmoid(x, x, t, -3.0, ids, ids, exclude_self=True, **options)
        else:
            value = kernels.multi_positive_infonce(x, x, t, ids, ids, positives=loss, exclude_self=True, **options)
        value.backward()
        return x.grad, t.grad

    for got, want in zip(gradients(), gradients(backend="reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_strided_inputs(loss):
    p = random_arguments(torch.seed() % 2**31, 12, 15, 6, 5.0, num_ids=4)
    x = torch.stack([p.x, torch.full_like(p.x, torch.nan)], 1)[:, 0]  # one view of several
    y = p.y.T.contiguous().T
    assert not x.is_contiguous()
    assert not y.is_contiguous()
    assert_equal(run(loss, replace(p, x=x, y=y)), run(loss, p, backend="reference"), 1e-12)


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8, torch.uint64])
def test_ids_of_any_integer_dtype(loss, dtype):
    p = random_arguments(torch.seed() % 2**31, 19, 22, 3, 6.0, num_ids=4)
    p = replace(p, x_ids=p.x_ids // 10**9 + 100, y_ids=p.y_ids // 10**9 + 100)
    want = run(loss, p, backend="reference")
    assert_equal(run(loss, replace(p, x_ids=p.x_ids.to(dtype), y_ids=p.y_ids.to(dtype))), want, 1e-12)
    assert_equal(run(loss, replace(p, x_ids=p.x_ids.to(dtype))), want, 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", ["number", "[]", "[1]"])
def test_forms_of_scale_and_bias(loss, form):
    p = random_arguments(torch.seed() % 2**31, 9, 9, 3, 6.0, num_ids=4)
    form_of = {"number": float, "[]": lambda v: v.reshape(()), "[1]": lambda v: v.reshape(1)}[form]
    p = replace(p, scale=form_of(p.scale), bias=form_of(p.bias))
    got = run(loss, p, backend="chunked")
    assert_equal(got, run(loss, p, backend="reference"), 1e-12)  # shapes are compared, too
    assert ("scale" in got) == (form != "number")


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
def test_weights_may_be_booleans(loss):
    p = random_arguments(torch.seed() % 2**31, 9, 8, 3, 6.0, num_ids=3)
    valid = torch.rand(9) < 0.6
    for backend in ("reference", "chunked"):
        got = run(loss, p, x_weight=valid, backend=backend)
        assert_equal(got, run(loss, p, x_weight=valid.double(), backend=backend), 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_sides_of_different_dtype(loss):
    p = random_arguments(torch.seed() % 2**31, 9, 8, 3, 6.0, num_ids=3)
    mixed = replace(p, x=p.x.to(torch.bfloat16), y=p.y.float(), scale=p.scale.float(), bias=p.bias.float())
    want = run(loss, mixed.to(torch.float64), backend="reference")
    got = run(loss, mixed)
    assert_equal({"x": got.pop("x")}, {"x": want.pop("x")}, 1e-2)
    assert_equal(got, want, 1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, dtype, small_chunks):
    p = random_arguments(torch.seed() % 2**31, 37, 29, 16, 20.0, num_ids=9).to(dtype)
    got = run(loss, p, 1.7, backend="chunked")
    want = run(loss, p.to(torch.float64), 1.7, backend="reference")
    value = "lse" if loss == "contrast_lse" else "value"
    assert got[value].dtype == torch.float32
    assert_equal({value: got.pop(value)}, {value: want.pop(value)}, 1e-5, "value")
    # the gradients are those of these very features, rounded once
    assert_equal(got, {k: v.to(dtype) for k, v in want.items()}, 2 * torch.finfo(dtype).eps, "gradients")


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss):
    p = random_arguments(torch.seed() % 2**31, 31, 27, 8, 10.0, num_ids=4).to(torch.float32)
    plain = run(loss, p, backend="chunked")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(loss, p, backend="chunked")  # backward inside, too
    assert all(torch.equal(plain[k], inside[k]) for k in plain)


@pytest.mark.parametrize(("loss", "wanted"), [*itertools.product(LOSSES, ["x", "y", "scale"]), ("sigmoid", "bias")])
def test_only_what_is_wanted_gets_a_gradient(loss, wanted):
    p = random_arguments(torch.seed() % 2**31, 8, 9, 3, 6.0, num_ids=3)
    everything = run(loss, p)
    assert_equal(run(loss, p, wanted=wanted), {k: everything[k] for k in (next(iter(everything)), wanted)}, 0.0)
