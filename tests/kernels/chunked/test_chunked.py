"""The chunked backend agrees with the float64 reference: values and every gradient, over ragged shapes, many chunks and
all options; and it computes no more for them than it must."""

from __future__ import annotations

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
    """Draws shapes, a scale and options: absent items, weights, self pairs anywhere in y, one direction or both."""
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
    """The scales need one exponential, one with a reference, and one for rows and another for columns."""
    p = random_arguments(torch.seed() % 2**31, 67, 41, 5, scale, num_ids=20)
    one = run(loss, p, backend="chunked")
    monkeypatch.setattr(kernels.chunked.elementwise, "BLOCK_CELLS", 41 * 6)
    assert_equal(run(loss, p, backend="chunked"), one, 1e-12)


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "contrast_lse"])
@pytest.mark.parametrize("cosines", ["high", "low", "apart"])
@pytest.mark.parametrize("scale", [100.0, 400.0])
def test_no_exponential_leaves_float32(loss, cosines, scale, small_chunks):
    """Logits lie near `scale`, near -`scale`, or both by rows: some need a reference, some a row's and a column's."""
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
