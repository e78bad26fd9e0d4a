"""Nothing counts of items of weight 0, of rows in which everything is excluded, of batches without a positive."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_arguments import assert_equal, random_arguments, run

import kernels


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
