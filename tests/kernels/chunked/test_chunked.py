"""The chunked backend against the float64 reference: values and every gradient, over ragged shapes, many chunks, all
options, dtypes and forms of the arguments."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loss_arguments import Inside, assert_equal, random_arguments, run
from torch.nn.functional import normalize

import kernels
import kernels.chunked.positives

pytestmark = pytest.mark.slow

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")
fixtures_are_constant = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def cases(draw):
    """(seed, shape, scale, options): absent items, other weights, self pairs anywhere in y, one direction or both."""
    m = draw(st.integers(1, 41), label="m")
    exclude_self = draw(st.booleans(), label="exclude_self")
    n = draw(st.integers(m if exclude_self else 1, 47), label="n")
    x_offset = draw(st.integers(0, n - m), label="x_offset") if exclude_self else 0
    seed = draw(st.integers(0, 2**31), label="seed")
    generator = torch.Generator().manual_seed(seed)

    def weight(rows):
        kind = draw(st.sampled_from(["none", "present", "any"]))
        if kind == "none":
            return None
        return torch.randint(0, 2 if kind == "present" else 4, (rows,), generator=generator) * 0.75

    return {
        "seed": seed,
        "shape": (m, n, draw(st.integers(1, 9), label="d")),
        "scale": draw(st.sampled_from([0.0, 1.0, 14.0, 100.0]), label="scale"),
        "num_ids": draw(st.integers(1, 12), label="num_ids"),
        "exclude_self": exclude_self,
        "x_offset": x_offset,
        "weights": {"x_weight": weight(m), "y_weight": weight(n)},
        "symmetric": draw(st.booleans(), label="symmetric"),
        "few": draw(st.sampled_from([0, 16]), label="FEW"),
        "upstream": draw(st.sampled_from([1.0, -2.5])),
    }


def options_of(loss, case):
    if loss == "contrast_lse":
        exclude = "self" if case["exclude_self"] else ("group" if case["symmetric"] else "none")
        return {"exclude": exclude, "x_offset": case["x_offset"]}
    options = {"exclude_self": case["exclude_self"], "x_offset": case["x_offset"], **case["weights"]}
    return options if loss == "sigmoid" else {**options, "symmetric": case["symmetric"]}


@pytest.mark.parametrize("loss", LOSSES)
@given(case=cases())
@fixtures_are_constant
def test_float64_is_exact(loss, case, small_chunks, monkeypatch):
    monkeypatch.setattr(kernels.chunked.positives, "FEW", case["few"])
    p = random_arguments(case["seed"], *case["shape"], case["scale"], case["num_ids"], **options_of(loss, case))
    got = run(loss, p, case["upstream"], backend="chunked")
    assert_equal(got, run(loss, p, case["upstream"], backend="reference"), 1e-12, case)


@pytest.mark.parametrize("loss", LOSSES)
@given(case=cases())
@fixtures_are_constant
def test_float32_is_exact_to_rounding(loss, case, small_chunks, monkeypatch):
    monkeypatch.setattr(kernels.chunked.positives, "FEW", case["few"])
    p = random_arguments(case["seed"], *case["shape"], case["scale"], case["num_ids"], **options_of(loss, case)).to(
        torch.float32
    )
    got = run(loss, p, case["upstream"], backend="chunked")
    want = run(loss, p.to(torch.float64), case["upstream"], backend="reference")
    # a logit of size `scale` is rounded by 6e-8 of it: so far off is a probability, and gradients are scale times one
    scale, value = max(1.0, case["scale"]), next(iter(want))
    assert_equal({value: got.pop(value)}, {value: want.pop(value)}, 1e-6 * scale, case)
    assert_equal(got, want, 5e-6 * scale + 1e-6 * scale**2, case)


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
def test_one_chunk_equals_many(loss, monkeypatch):
    p = random_arguments(torch.seed() % 2**31, 127, 41, 5, 30.0, num_ids=20)
    one = run(loss, p, backend="chunked")
    monkeypatch.setattr(kernels.chunked.logits, "CELLS", 41 * 50)
    monkeypatch.setattr(kernels.chunked.logits, "MIN_ROWS", 1)
    kept = run(loss, p, backend="chunked")
    monkeypatch.setattr(kernels.chunked.logits, "KEPT_CELLS", 0)
    assert_equal(kept, one, 1e-13)
    assert_equal(run(loss, p, backend="chunked"), one, 1e-13)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [30.0, 100.0, 300.0])
def test_one_block_equals_many(loss, scale, monkeypatch):
    """with one exponential, with a reference, and with one exponential for rows and one for columns"""
    p = random_arguments(torch.seed() % 2**31, 67, 41, 5, scale, num_ids=20)
    one = run(loss, p, backend="chunked")
    monkeypatch.setattr(kernels.chunked.logits, "BLOCK_CELLS", 41 * 6)
    assert_equal(run(loss, p, backend="chunked"), one, 1e-12)


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "contrast_lse"])
@pytest.mark.parametrize("cosines", ["high", "low", "apart"])
@pytest.mark.parametrize("scale", [100.0, 400.0])
def test_no_exponential_leaves_float32(loss, cosines, scale, small_chunks):
    """Logits near `scale`, near -`scale`, or rows of both: some need a reference, some a row's and a column's."""
    draw = torch.Generator().manual_seed(seed := torch.seed() % 2**31)
    axis = torch.eye(6)[0]
    sign = {"high": 1.0, "low": -1.0, "apart": (torch.arange(31) % 2 * 2.0 - 1.0)[:, None]}[cosines]
    x = normalize(axis * sign + 0.05 * torch.randn(31, 6, generator=draw), dim=1)
    y = normalize(axis + 0.05 * torch.randn(23, 6, generator=draw), dim=1)
    p = replace(random_arguments(seed, 31, 23, 6, scale, num_ids=5), x=x.double(), y=y.double())
    got = run(loss, p.to(torch.float32), backend="chunked")
    want = run(loss, p, backend="reference")
    value = next(iter(want))
    assert_equal({value: got.pop(value)}, {value: want.pop(value)}, 1e-6 * scale, seed)
    assert_equal(got, want, 5e-6 * scale + 1e-6 * scale**2, seed)


@pytest.mark.parametrize("loss", LOSSES)
def test_same_bits_every_time(loss, small_chunks):
    p = random_arguments(torch.seed() % 2**31, 67, 53, 8, 10.0, num_ids=9).to(torch.float32)
    first, second = run(loss, p), run(loss, p)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("loss", LOSSES)
def test_x_is_y(loss, small_chunks):
    """Contrast of a set with itself: the gradient goes through both arguments, the scale's through one."""
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


@pytest.mark.parametrize("loss", LOSSES)
def test_backward_twice_and_never_twice_differentiable(loss):
    p = random_arguments(torch.seed() % 2**31, 8, 9, 3, 6.0, num_ids=3)
    x = p.x.clone().requires_grad_()
    if loss == "contrast_lse":
        value = torch.cat(kernels.contrast_lse(x, p.y, p.scale)).sum()
    elif loss == "sigmoid":
        value = kernels.multi_positive_sigmoid(x, p.y, p.scale, p.bias, p.x_ids, p.y_ids)
    else:
        value = kernels.multi_positive_infonce(x, p.y, p.scale, p.x_ids, p.y_ids, positives=loss)
    (once,) = torch.autograd.grad(value, x, retain_graph=True)
    (again,) = torch.autograd.grad(value, x, retain_graph=True)
    assert torch.equal(once, again)
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_what_an_absent_item_holds_does_not_matter(loss, backend):
    p = random_arguments(torch.seed() % 2**31, 9, 8, 3, 6.0, num_ids=3)
    options = {
        "x_weight": torch.tensor([1, 1, 0, 1, 2, 1, 1, 0, 1]),
        "y_weight": torch.tensor([1, 0, 1, 1, 1, 1, 3, 1]),
    }
    want = run(loss, p, backend=backend, **options)
    x, y = p.x.clone(), p.y.clone()
    x[2], x[7], y[1] = torch.nan, torch.inf, torch.nan
    assert_equal(run(loss, replace(p, x=x, y=y), backend=backend, **options), want, 1e-14)
    assert want["x"][2].abs().max() == want["y"][1].abs().max() == 0


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_everything_excluded(backend):
    x, y = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    x_ids, y_ids = torch.tensor([5, 5, 6]), torch.tensor([5, 5, 5, 5])
    row, column = kernels.contrast_lse(x, y, 2.0, exclude="group", x_ids=x_ids, y_ids=y_ids, backend=backend)
    assert row.isneginf().tolist() == [True, True, False]
    assert not column.isneginf().any()
    (row[2] + 0 * row[:2].exp().sum() + column.sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad[:2], torch.zeros(2, 2))
    assert x.grad[2].abs().sum() > 0


@pytest.mark.parametrize("loss", ["mean", "logsum", "each"])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("how", ["no partner", "no weight", "only itself"])
def test_no_positive_at_all_is_zero_and_attached(loss, backend, how):
    p = random_arguments(torch.seed() % 2**31, 5, 5, 3, 6.0, num_ids=3)
    options = {}
    if how == "no partner":
        p = replace(p, x_ids=torch.arange(5), y_ids=torch.arange(5, 10))
    elif how == "no weight":
        options = {"x_weight": torch.zeros(5)}
    else:
        p, options = replace(p, x_ids=torch.arange(5), y_ids=torch.arange(5)), {"exclude_self": True}
    for name, result in run(loss, p, backend=backend, **options).items():
        assert result.abs().sum() == 0, name


class Products(Inside):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def seen(self, func, result):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)


@pytest.mark.parametrize("loss", LOSSES)
def test_evaluation_forms_the_logits_and_nothing_else(loss):
    p = random_arguments(3, 6, 6, 3, 6.0, num_ids=3)
    x, scale = p.x.requires_grad_(), p.scale.requires_grad_()
    with torch.no_grad(), Products() as products:
        if loss == "contrast_lse":
            value, _ = kernels.contrast_lse(x, p.y, scale)
        elif loss == "sigmoid":
            value = kernels.multi_positive_sigmoid(x, p.y, scale, p.bias, p.x_ids, p.y_ids)
        else:
            value = kernels.multi_positive_infonce(x, p.y, scale, p.x_ids, p.y_ids, positives=loss)
    assert not value.requires_grad
    assert products.count == 1
    assert not kernels.multi_positive_infonce(x.detach(), p.y, scale.detach(), p.x_ids, p.y_ids).requires_grad


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
