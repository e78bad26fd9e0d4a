"""The dense reference agrees with loops over single pairs, finite differences, and other libraries."""

from __future__ import annotations

import math
import random

import pytest
import torch
from loss_arguments import random_arguments, run
from torch.nn.functional import cross_entropy, normalize

from kernels import reference

INF = math.inf


def lse(values: list[float]) -> float:
    top = max(values, default=-INF)
    return top + math.log(sum(math.exp(v - top) for v in values)) if values else -INF


def by_pairs(p, positives: str = "", exclude_self=False, x_weight=None, y_weight=None, symmetric=True, x_offset=0):
    """Computes InfoNCE, or the sigmoid loss where positives is "", one pair at a time."""
    m, n = len(p.x), len(p.y)
    w = [1.0] * m if x_weight is None else x_weight.tolist()
    v = [1.0] * n if y_weight is None else y_weight.tolist()
    dot = (p.x @ p.y.T).tolist()
    bias = 0.0 if positives else float(p.bias)
    S = [[float(p.scale) * dot[i][j] + bias for j in range(n)] for i in range(m)]
    seen = [[w[i] > 0 and v[j] > 0 and not (exclude_self and j == i + x_offset) for j in range(n)] for i in range(m)]
    same = [[int(p.x_ids[i]) == int(p.y_ids[j]) for j in range(n)] for i in range(m)]
    if not positives:
        pairs = [(i, j) for i in range(m) for j in range(n) if seen[i][j]]
        return sum(w[i] * v[j] * math.log1p(math.exp(-S[i][j] if same[i][j] else S[i][j])) for i, j in pairs) / sum(w)

    def direction(outer, inner, weight, at):
        total = norm = 0.0
        for i in outer:
            everything = [S_ij for j in inner for (S_ij, seen_ij, _) in [at(i, j)] if seen_ij]
            positive = [S_ij for j in inner for (S_ij, seen_ij, same_ij) in [at(i, j)] if seen_ij and same_ij]
            negative = [S_ij for j in inner for (S_ij, seen_ij, same_ij) in [at(i, j)] if seen_ij and not same_ij]
            if not positive:
                continue
            if positives == "mean":
                loss = lse(everything) - sum(positive) / len(positive)
            elif positives == "logsum":
                loss = lse(everything) - lse(positive)
            else:
                loss = sum(lse([s, *negative]) - s for s in positive) / len(positive)
            total, norm = total + weight[i] * loss, norm + weight[i]
        return total / norm if norm else 0.0

    rows = direction(range(m), range(n), w, lambda i, j: (S[i][j], seen[i][j], same[i][j]))
    columns = direction(range(n), range(m), v, lambda j, i: (S[i][j], seen[i][j], same[i][j]))
    return (rows + columns) / 2 if symmetric else rows


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_is_the_sum_over_pairs(loss, exclude_self, weighted):
    seed = random.randrange(10**6)
    m, n, x_offset = 11, 17, 3
    options = {"exclude_self": exclude_self, "x_offset": x_offset if exclude_self else 0}
    if weighted:
        draw = torch.Generator().manual_seed(seed)
        options["x_weight"] = torch.randint(0, 3, (m,), generator=draw) * 0.7
        options["y_weight"] = torch.randint(0, 3, (n,), generator=draw) * 1.3
    if loss != "sigmoid":
        options["symmetric"] = seed % 2 == 0
    p = random_arguments(seed, m, n, 5, 9.0, num_ids=3, **options)
    if exclude_self:
        p.y_ids[x_offset : x_offset + m] = p.x_ids
    got = run(loss, p, backend="reference")["value"]
    want = by_pairs(p, "" if loss == "sigmoid" else loss, **options)
    assert got.item() == pytest.approx(want, rel=1e-12, abs=1e-12), f"seed {seed}"


@pytest.mark.parametrize("exclude", ["none", "self", "group"])
def test_contrast_lse_is_the_sum_over_pairs(exclude):
    seed = random.randrange(10**6)
    p = random_arguments(seed, 7, 12, 4, 6.0, num_ids=2)
    row, column = reference.contrast_lse(
        p.x, p.y, p.scale, exclude=exclude, x_ids=p.x_ids, y_ids=p.y_ids, x_offset=2 if exclude == "self" else 0
    )
    S = (p.scale * p.x @ p.y.T).tolist()

    def seen(i, j):
        return not ((exclude == "self" and j == i + 2) or (exclude == "group" and p.x_ids[i] == p.y_ids[j]))

    assert row.tolist() == pytest.approx([lse([S[i][j] for j in range(12) if seen(i, j)]) for i in range(7)])
    assert column.tolist() == pytest.approx([lse([S[i][j] for i in range(7) if seen(i, j)]) for j in range(12)])


@pytest.mark.parametrize("positives", ["mean", "logsum", "each"])
def test_gradients_are_differences(positives):
    seed = random.randrange(10**6)
    p = random_arguments(seed, 5, 6, 3, 4.0, num_ids=2, exclude_self=True)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.3, 1.0], dtype=torch.float64)

    def loss(x, y, scale):
        return reference.multi_positive_infonce(
            x, y, scale, p.x_ids, p.y_ids, positives=positives, x_weight=weight, exclude_self=True
        )

    inputs = [v.requires_grad_() for v in (p.x, p.y, p.scale)]
    assert torch.autograd.gradcheck(loss, inputs), f"seed {seed}"


def test_sigmoid_gradients_are_differences():
    seed = random.randrange(10**6)
    p = random_arguments(seed, 4, 5, 3, 4.0, num_ids=2)

    def loss(x, y, scale, bias):
        return reference.multi_positive_sigmoid(x, y, scale, bias, p.x_ids, p.y_ids, exclude_self=True)

    inputs = [v.requires_grad_() for v in (p.x, p.y, p.scale, p.bias)]
    assert torch.autograd.gradcheck(loss, inputs), f"seed {seed}"


def test_mean_is_cross_entropy_with_soft_targets():
    p = random_arguments(random.randrange(10**6), 13, 9, 4, 7.0, num_ids=2)
    S, T = p.scale * p.x @ p.y.T, (p.x_ids[:, None] == p.y_ids).double()
    rows, columns = T.sum(1) > 0, T.sum(0) > 0
    want = cross_entropy(S[rows], (T / T.sum(1, keepdim=True))[rows])
    want = (want + cross_entropy(S.T[columns], (T / T.sum(0)).T[columns])) / 2
    torch.testing.assert_close(reference.multi_positive_infonce(p.x, p.y, p.scale, p.x_ids, p.y_ids), want)


def test_one_positive_is_open_clip():
    from open_clip.loss import ClipLoss, SigLipLoss

    p = random_arguments(random.randrange(10**6), 41, 41, 8, 14.0, num_ids=3)
    ids = torch.randperm(41)
    clip = ClipLoss()(p.x, p.y, p.scale)
    torch.testing.assert_close(reference.multi_positive_infonce(p.x, p.y, p.scale, ids, ids), clip)
    siglip = SigLipLoss()(p.x, p.y, p.scale, p.bias)
    torch.testing.assert_close(reference.multi_positive_sigmoid(p.x, p.y, p.scale, p.bias, ids, ids), siglip)


@pytest.mark.parametrize("views", [2, 3])
def test_each_is_nt_xent(views):
    from pytorch_metric_learning.losses import NTXentLoss

    z = normalize(torch.randn(8 * views, 6, dtype=torch.float64), dim=1)
    ids = torch.arange(8).repeat(views)  # NTXentLoss averages over pairs: the same mean only when n is constant
    got = reference.multi_positive_infonce(z, z, 1 / 0.2, ids, ids, positives="each", exclude_self=True)
    torch.testing.assert_close(got, NTXentLoss(temperature=0.2)(z, ids))
