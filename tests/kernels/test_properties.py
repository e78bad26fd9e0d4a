"""Limits, symmetries and floors hold of the losses whatever the formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from loss_arguments import assert_equal, random_arguments, run
from torch.nn.functional import cross_entropy, normalize

import kernels
import kernels.chunked.positives

POSITIVES = ("mean", "logsum", "each")
LOSSES = (*POSITIVES, "sigmoid")


def seed() -> int:
    return torch.seed() % 2**31


@pytest.mark.parametrize("loss", POSITIVES)
def test_one_positive_each_is_clip(loss, small_chunks):
    p = random_arguments(seed(), 41, 41, 7, 20.0, num_ids=1)
    order = torch.randperm(41)
    ids = torch.randperm(1000)[:41]
    got = run(loss, replace(p, x_ids=ids, y_ids=ids[order]))
    x, y, t = (v.clone().requires_grad_() for v in (p.x, p.y, p.scale))
    S, partner = t * x @ y.T, order.argsort()
    clip = (cross_entropy(S, partner) + cross_entropy(S.T, order)) / 2
    clip.backward()
    assert_equal(got, {"value": clip.detach(), "x": x.grad, "y": y.grad, "scale": t.grad}, 1e-12)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_ln_n_when_nothing_can_be_told_apart(backend):
    x, ids = normalize(torch.ones(50, 3), dim=1), torch.arange(50)
    for positives in POSITIVES:
        value = kernels.multi_positive_infonce(x, x, 10.0, ids, ids, positives=positives, backend=backend)
        assert value.item() == pytest.approx(math.log(50), rel=1e-6)
    # two positives among 50: against all, together against all, each against the 48 negatives
    for positives, odds in {"mean": 50, "logsum": 25, "each": 49}.items():
        value = kernels.multi_positive_infonce(x, x, 10.0, ids // 2, ids // 2, positives=positives, backend=backend)
        assert value.item() == pytest.approx(math.log(odds), rel=1e-6)
    sigmoid = kernels.multi_positive_sigmoid(x, x, 0.0, 0.0, ids, ids, backend=backend)
    assert sigmoid.item() == pytest.approx(50 * math.log(2), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("largest", [14.0, 30.0, 100.0])
@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("loss", LOSSES)
def test_never_below_its_floor(loss, few, copies, largest, monkeypatch):
    """Of the loss of converged float32 features only rounding is left, which must not take it below its floor."""
    monkeypatch.setattr(kernels.chunked.positives, "FEW", few)
    floor = math.log(copies) if loss == "mean" else 0.0
    # softplus(S) - S of many positives is a difference of large sums
    tolerance = 1e-5 if loss == "sigmoid" and few == 0 else 1e-6
    for scale in torch.linspace(0.8 * largest, largest, 10).tolist():
        z = torch.linalg.qr(torch.randn(64, 64)).Q.repeat(copies, 1)
        ids = torch.arange(64).repeat(copies)
        if loss == "sigmoid":
            value = kernels.multi_positive_sigmoid(z, z, 2 * scale, -scale, ids, ids)
        else:
            value = kernels.multi_positive_infonce(z, z, scale, ids, ids, positives=loss)
        assert floor <= value.item() + 1e-7 * floor  # log(copies) in float32
        assert value.item() <= floor + 64 * copies * math.exp(-scale) + tolerance * scale


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("scale", [30.0, 60.0, 80.0, 100.0])
@pytest.mark.parametrize("loss", [*LOSSES, "contrast_lse"])
def test_logits_of_any_size(loss, sign, scale):
    """All logits lie near +scale or -scale: exponentials that float32 cannot hold (e^88) must not be formed."""
    p = random_arguments(seed(), 9, 11, 4, scale, num_ids=3)
    centre = normalize(torch.ones(4, dtype=torch.float64), dim=0)
    x, y = (normalize(centre + 0.02 * z, dim=1) for z in (p.x, p.y))
    p = replace(p, x=x, y=sign * y).to(torch.float32)
    assert_equal(run(loss, p), run(loss, p.to(torch.float64), backend="reference"), 5e-6 * scale)
    if loss == "contrast_lse":
        small, one = run(loss, p, upstream=1e-9)["x"] * 1e9, run(loss, p)["x"]
        torch.testing.assert_close(small, one, rtol=1e-3, atol=1e-3 * one.abs().max().item())


@pytest.mark.parametrize("loss", LOSSES)
def test_order_and_names_of_samples_do_not_matter(loss, small_chunks):
    p = random_arguments(seed(), 23, 31, 5, 12.0, num_ids=6)
    want = run(loss, p)
    rows, columns = torch.randperm(23), torch.randperm(31)
    renamed = torch.randperm(2**16)
    names = {old: int(renamed[k]) - 2**15 for k, old in enumerate(torch.cat([p.x_ids, p.y_ids]).unique().tolist())}

    def rename(ids):
        return torch.tensor([names[i] for i in ids.tolist()])

    q = replace(p, x=p.x[rows], y=p.y[columns], x_ids=rename(p.x_ids[rows]), y_ids=rename(p.y_ids[columns]))
    want |= {"x": want["x"][rows], "y": want["y"][columns]}
    assert_equal(run(loss, q), want, 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_weight_zero_is_removal(loss, exclude_self, backend, small_chunks):
    p = random_arguments(seed(), 23, 23, 5, 12.0, num_ids=6, exclude_self=exclude_self, backend=backend)
    weight = torch.rand(23, dtype=torch.float64) * (torch.rand(23) < 0.6)
    got = run(loss, p, x_weight=weight, y_weight=weight)
    k = weight > 0
    less = replace(p, x=p.x[k], y=p.y[k], x_ids=p.x_ids[k], y_ids=p.y_ids[k])
    want = run(loss, less, x_weight=weight[k], y_weight=weight[k])
    assert not got["x"][~k].any()
    assert not got["y"][~k].any()
    assert_equal(got | {"x": got["x"][k], "y": got["y"][k]}, want, 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_count_copies(loss):
    """A row of weight 3 weighs in the mean like three such rows (columns' denominators aside: one direction)."""
    p = random_arguments(seed(), 11, 13, 5, 12.0, num_ids=3)
    copies = torch.randint(1, 4, (11,))
    options = {} if loss == "sigmoid" else {"symmetric": False}
    repeated = replace(p, x=p.x.repeat_interleave(copies, 0), x_ids=p.x_ids.repeat_interleave(copies))
    want = run(loss, repeated, **options)["value"]
    torch.testing.assert_close(run(loss, p, x_weight=copies.double(), **options)["value"], want)


@pytest.mark.parametrize("loss", POSITIVES)
def test_both_directions_are_the_mean_of_each(loss):
    p = random_arguments(seed(), 11, 13, 5, 12.0, num_ids=4)
    turned = replace(p, x=p.y, y=p.x, x_ids=p.y_ids, y_ids=p.x_ids)
    rows, columns = (run(loss, q, symmetric=False)["value"] for q in (p, turned))
    torch.testing.assert_close(run(loss, p)["value"], (rows + columns) / 2)


@pytest.mark.parametrize("loss", [*LOSSES, "contrast_lse"])
def test_a_strip_without_a_group_is_a_whole(loss):
    """x_offset says which column a row is, and nothing else."""
    p = random_arguments(seed(), 6, 13, 5, 12.0, num_ids=3)
    moved = replace(p, y=p.y.roll(4, 0), y_ids=p.y_ids.roll(4))
    itself = {"exclude": "self"} if loss == "contrast_lse" else {"exclude_self": True}
    want, got = run(loss, p, x_offset=0, **itself), run(loss, moved, x_offset=4, **itself)
    got["y"] = got["y"].roll(-4, 0)
    if loss == "contrast_lse":  # compare what does not depend on the columns' order
        assert_equal({"lse": got["lse"][:6]}, {"lse": want["lse"][:6]}, 1e-12)
        assert_equal({"lse": got["lse"][6:].roll(-4)}, {"lse": want["lse"][6:]}, 1e-12)
    else:
        assert_equal(got, want, 1e-12)
