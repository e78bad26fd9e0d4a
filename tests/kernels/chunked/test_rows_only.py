"""Losses in which only rows count take one pass over the logits; the others form them as often as they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_arguments import Inside, assert_equal, random_arguments, run
from torch.nn.functional import normalize

import kernels
import kernels.chunked.logits
import kernels.chunked.positives

SOFTMAX = ("mean", "logsum", "each")


@pytest.mark.slow
@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("shape", [(41, 127, 5), (127, 127, 9), (3, 41, 1)])
def test_rows_equal_the_reference(loss, exclude_self, weighted, few, shape, small_chunks, monkeypatch):
    monkeypatch.setattr(kernels.chunked.positives, "FEW", few)
    seed = torch.seed() % 2**31
    draw = torch.Generator().manual_seed(seed)
    options = {"symmetric": False, "exclude_self": exclude_self}
    if weighted:
        options |= {
            k: torch.randint(0, 4, (n,), generator=draw) * 0.5
            for k, n in zip(("x_weight", "y_weight"), shape[:2], strict=True)
        }
    p = random_arguments(seed, *shape, 20.0, num_ids=15, **options)
    got = run(loss, p, -1.5, backend="chunked")
    assert_equal(got, run(loss, p, -1.5, backend="reference"), 1e-12, seed)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("scale", [0.0, 100.0, 1000.0])
def test_no_row_leaves_float32(loss, scale, small_chunks):
    """Some rows have all logits near `scale`, some all near -`scale`."""
    seed = torch.seed() % 2**31
    draw = torch.Generator().manual_seed(seed)
    axis, sign = torch.eye(6)[0], torch.arange(31)[:, None] % 2 * 2.0 - 1.0
    x = normalize(axis * sign + 0.02 * torch.randn(31, 6, generator=draw), dim=1)
    y = normalize(axis + 0.02 * torch.randn(23, 6, generator=draw), dim=1)
    p = replace(random_arguments(seed, 31, 23, 6, scale, num_ids=5, symmetric=False), x=x.double(), y=y.double())
    got = run(loss, p.to(torch.float32), backend="chunked")
    want = run(loss, p, backend="reference")
    assert_equal(got, want, 1e-6 * max(scale, 1.0), seed)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("exclude_self", [False, True])
def test_rows_without_a_negative(loss, exclude_self):
    """The log-sum-exp of such a row over its negatives is that of nothing."""
    p = random_arguments(torch.seed() % 2**31, 5, 5, 3, 6.0, num_ids=2, symmetric=False, exclude_self=exclude_self)
    p = replace(p, x_ids=torch.tensor([0, 0, 0, 0, 1]), y_ids=torch.zeros(5, dtype=torch.int64))
    assert_equal(run(loss, p, backend="chunked"), run(loss, p, backend="reference"), 1e-12)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("absent", ["x_weight", "y_weight"])
def test_a_side_of_nothing_is_zero_and_attached(loss, absent):
    p = random_arguments(5, 7, 7, 3, 6.0, num_ids=2, symmetric=False, **{absent: torch.zeros(7)})
    for name, result in run(loss, p, backend="chunked").items():
        assert result.abs().sum() == 0, name


class Products(Inside):
    """Counts matrix products, and those that fill all of S."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.logits, self.all = shape, 0, 0

    def seen(self, func, result):
        if (
            func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.matmul, torch.ops.aten.addmm_)
            and result.dim() == 2
        ):
            self.all += 1
            self.logits += result.shape == self.shape


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("few", [0, 16])
def test_how_often_logits_are_formed(loss, symmetric, few, monkeypatch):
    monkeypatch.setattr(kernels.chunked.positives, "FEW", few)
    monkeypatch.setattr(kernels.chunked.logits, "KEPT_CELLS", 0)
    with Products((19, 23)) as products:
        run(loss, random_arguments(3, 19, 23, 4, 6.0, num_ids=4, symmetric=symmetric), backend="chunked")
    assert products.logits == (1 if not symmetric else 3 if loss == "each" and few == 0 else 2)
    assert products.all == products.logits + 2


@pytest.mark.parametrize("scale", [6.0, 100.0])
def test_logits_that_are_kept_are_formed_once(scale):
    with Products((19, 23)) as products:
        run("mean", random_arguments(3, 19, 23, 4, scale, num_ids=4).to(torch.float32), backend="chunked")
    assert (products.logits, products.all) == (1, 3)


@pytest.mark.parametrize("loss", [*SOFTMAX, "sigmoid", "contrast_lse"])
def test_gaps_between_rows_change_nothing(loss, small_chunks, monkeypatch):
    """Rows of 1024 logits and multiples have gaps between them; here 7 numbers follow each row of 15."""
    monkeypatch.setattr(kernels.chunked.logits, "ALIASING", 5)
    monkeypatch.setattr(kernels.chunked.logits, "PAD", 7)
    p = random_arguments(torch.seed() % 2**31, 31, 15, 4, 9.0, num_ids=6)
    assert_equal(run(loss, p, 1.7, backend="chunked"), run(loss, p, 1.7, backend="reference"), 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_softplus(dtype, tolerance):
    S = torch.cat([torch.linspace(-40, 40, 8001), torch.tensor([-torch.inf, -750.0, 300.0, torch.inf, torch.nan])])
    want = torch.where(S.double() > 30, S.double(), S.double().exp().log1p())
    got = kernels.chunked.elementwise.softplus(S.to(dtype)).double()
    torch.testing.assert_close(got, want, rtol=3 * tolerance, atol=0.0, equal_nan=True)
