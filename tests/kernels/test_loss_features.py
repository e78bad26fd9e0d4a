"""Label smoothing, log-weights and false negatives with several positives: definitions by hand, then every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from loss_arguments import Arguments, assert_equal, random_arguments, run
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import kernels
import kernels.chunked.positives

LOSSES = ("mean", "logsum", "each")
M, N = 13, 19


def draw_case(seed: int, *, exclude_self: bool, weighted: bool, **options: Any) -> Arguments:
    """Draws rows with zero, one or several positives, some absent where weighted, some a column themselves."""
    draw = torch.Generator().manual_seed(seed)
    own = {"exclude_self": exclude_self, "x_offset": 4 if exclude_self else 0, "symmetric": seed % 3 != 0}
    if weighted:
        own["x_weight"] = torch.randint(0, 3, (M,), generator=draw) * 0.5
        own["y_weight"] = torch.randint(0, 3, (N,), generator=draw) * 0.5
    p = random_arguments(seed, M, N, 5, 9.0, num_ids=3, **options, **own)
    if exclude_self:
        p.y_ids[4 : 4 + M] = p.x_ids
    if is_nearly_tied(p):  # float32 may say of a candidate what float64 does not
        return draw_case(seed + 1, exclude_self=exclude_self, weighted=weighted, **options)
    return p


def is_nearly_tied(p: Arguments) -> bool:
    """Tells whether the cosine of a negative is within 1e-5 of where it becomes a false one, in rows or in columns."""
    if (margin := p.options.get("false_negative_margin")) is None:
        return False
    x, y = (p.options.get(f"{side}_guide", getattr(p, side)).double() for side in "xy")
    cosine, positive = x @ y.T, p.x_ids[:, None] == p.y_ids
    if p.options["exclude_self"]:
        positive = positive & (torch.arange(M)[:, None] + 4 != torch.arange(N))
    for c, own in ((cosine, positive), (cosine.T, positive.T)):
        mean = (c * own).sum(1) / own.sum(1)
        limit = mean + margin * (mean.abs() if p.options.get("relative_margin") else 1.0)
        if ((c - limit[:, None]).abs()[~own] < 1e-5).any():
            return True
    return False


def draw_log_weights(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {f"{side}_log_weight": 2 * torch.randn(n, generator=draw) for side, n in (("x", M), ("y", N))}


def draw_guides(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {f"{side}_guide": normalize(torch.randn(n, 3, generator=draw), dim=1) for side, n in (("x", M), ("y", N))}


FEATURES = {
    "smoothing": lambda seed: {"label_smoothing": 0.17},
    "log-weights": draw_log_weights,
    "one log-weight": lambda seed: {"y_log_weight": draw_log_weights(seed)["y_log_weight"]},
    "smoothing and log-weights": lambda seed: draw_log_weights(seed) | {"label_smoothing": 0.17},
    "false negatives": lambda seed: {"false_negative_margin": 0.1, "relative_margin": seed % 2 == 0},
    "false negatives and log-weights": lambda seed: draw_log_weights(seed) | {"false_negative_margin": -0.1},
    "hardness": lambda seed: draw_log_weights(seed) | {"hardness": 5.0, "label_smoothing": 0.1 * (seed % 2)},
    "hardness and false negatives": lambda seed: {"hardness": 5.0, "false_negative_margin": 0.1},
    "guided": lambda seed: {"false_negative_margin": 0.0} | draw_guides(seed),
}


def one_row(positives: str, s: Tensor, positive: Tensor, e: float) -> Tensor:
    """Computes a row's smoothed loss as cross-entropies of torch; s are the logits of what counts."""
    if positives == "mean":
        target = (1 - e) * positive.double() / positive.sum() + e / len(s)
        return cross_entropy(s, target)
    if positives == "logsum":
        return (1 - e) * (s.logsumexp(0) - s[positive].logsumexp(0)) + e * (s.logsumexp(0) - s.mean())
    zero = torch.zeros((), dtype=torch.int64)
    pairs = [torch.cat([p[None], s[~positive]]) for p in s[positive]]
    return torch.stack([cross_entropy(pair, zero, label_smoothing=e) for pair in pairs]).mean()


@pytest.mark.parametrize("positives", LOSSES)
@pytest.mark.parametrize("exclude_self", [False, True])
def test_a_row_is_the_cross_entropy_with_the_smoothed_target(positives, exclude_self, seed):
    p = draw_case(seed, exclude_self=exclude_self, weighted=False, label_smoothing=0.2, **draw_log_weights(seed))
    r, c = p.options["x_log_weight"].double(), p.options["y_log_weight"].double()
    S, P = p.scale * p.x @ p.y.T + r[:, None] + c, p.x_ids[:, None] == p.y_ids
    counts = torch.ones_like(P)
    if exclude_self:
        counts[torch.arange(M), torch.arange(M) + 4] = False

    def average(S: Tensor, P: Tensor, counts: Tensor) -> Tensor:
        rows = [(s[k], q[k]) for s, q, k in zip(S, P, counts, strict=True) if (q & k).any()]
        return torch.stack([one_row(positives, s, q, 0.2) for s, q in rows]).mean()

    want = average(S, P, counts)
    if p.options["symmetric"]:
        want = (want + average(S.T, P.T, counts.T)) / 2
    got = run(positives, p, backend="reference")["value"]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("positives", LOSSES)
def test_one_positive_is_the_smoothed_cross_entropy_of_torch(positives, seed):
    p = random_arguments(seed, M, M, 5, 9.0, num_ids=3)
    ids, S = torch.arange(M), p.scale * p.x @ p.y.T
    got = kernels.multi_positive_infonce(p.x, p.y, p.scale, ids, ids, positives=positives, label_smoothing=0.1)
    want = (cross_entropy(S, ids, label_smoothing=0.1) + cross_entropy(S.T, ids, label_smoothing=0.1)) / 2
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("positives", LOSSES)
def test_a_negative_of_log_weight_log_3_counts_three_times(positives, seed):
    p = random_arguments(seed, M, N, 5, 9.0, num_ids=3, symmetric=False)
    p.y_ids[-1] = 7  # nobody's positive
    three = replace(p, y=torch.cat([p.y, p.y[-1:], p.y[-1:]]), y_ids=torch.cat([p.y_ids, p.y_ids.new_tensor([7, 7])]))
    log_weight = torch.zeros(N, dtype=torch.float64)
    log_weight[-1] = torch.tensor(3.0).log()
    got, want = run(positives, p, y_log_weight=log_weight), run(positives, three)
    want["y"] = torch.cat([want["y"][: N - 1], want["y"][N - 1 :].sum(0, keepdim=True)])
    assert_equal(got, want, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_chunks_equal_the_dense_loss(loss, feature, seed, small_chunks, monkeypatch):
    for k in range(2):  # with weights and without, with self pairs and without, with few positives and many
        monkeypatch.setattr(kernels.chunked.positives, "FEW", 16 * (seed // 2 % 2))
        p = draw_case(seed + k, exclude_self=seed % 2 == k, weighted=k == 1, **FEATURES[feature](seed + k))
        want = run(loss, p, -2.5, backend="reference")
        assert_equal(run(loss, p, -2.5, backend="chunked"), want, 1e-12, (seed, k))
        assert_equal(run(loss, p.to(torch.float32), -2.5, backend="chunked"), want, 3e-5, (seed, k, "float32"))


@pytest.mark.parametrize("positives", LOSSES)
def test_hardness_weighs_negatives_and_gets_no_gradient(positives, seed):
    p = draw_case(seed, exclude_self=False, weighted=False, hardness=4.0)
    x, y, t = (v.clone().requires_grad_() for v in (p.x, p.y, p.scale))
    cosine, P = x @ y.T, p.x_ids[:, None] == p.y_ids
    W = t * cosine + 4.0 * cosine.detach() * ~P
    directions = [(W, P), (W.T, P.T)] if p.options["symmetric"] else [(W, P)]
    losses = [
        torch.stack([one_row(positives, s, q, 0.0) for s, q in zip(*d, strict=True) if q.any()]) for d in directions
    ]
    value = torch.stack([rows.mean() for rows in losses]).mean()
    gradients = torch.autograd.grad(value, (x, y, t))
    want = {"value": value.detach()} | dict(zip(("x", "y", "scale"), gradients, strict=True))
    assert_equal(run(positives, p, backend="reference"), want, 1e-12)


def drop(cosine: Tensor, positive: Tensor, counts: Tensor, limit) -> Tensor:
    """Takes out of what counts for each row the negatives above the limit of its positives' mean cosine."""
    counts = counts.clone()
    for c, p, k in zip(cosine, positive, counts, strict=True):
        if (p & k).any():
            k &= p | (c <= limit(c[p & k].mean()))
    return counts


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("positives", LOSSES)
def test_false_negatives_leave_one_denominator_each(positives, guided, relative, seed):
    guide = draw_guides(seed) if guided else {}
    options = {"false_negative_margin": -0.3, "relative_margin": relative} | guide
    p = draw_case(seed, exclude_self=True, weighted=False, **options)
    p.options["symmetric"] = True
    g, h = (p.x, p.y) if not guided else (guide["x_guide"].double(), guide["y_guide"].double())
    S, P, counts = p.scale * p.x @ p.y.T, p.x_ids[:, None] == p.y_ids, torch.ones(M, N, dtype=torch.bool)
    counts[torch.arange(M), torch.arange(M) + 4] = False

    def limit(mean: Tensor) -> Tensor:
        return mean - 0.3 * mean.abs() if relative else mean - 0.3

    def average(S: Tensor, P: Tensor, counts: Tensor, cosine: Tensor) -> Tensor:
        kept = drop(cosine, P, counts, limit)
        rows = [(s[k], q[k]) for s, q, k in zip(S, P, kept, strict=True) if (q & k).any()]
        return torch.stack([one_row(positives, s, q, 0.0) for s, q in rows]).mean()

    want = (average(S, P, counts, g @ h.T) + average(S.T, P.T, counts.T, h @ g.T)) / 2
    torch.testing.assert_close(run(positives, p, backend="reference")["value"], want)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_copy_of_a_positive_stays_and_what_is_nearer_leaves(backend, dtype, seed):
    """One row and one positive, a negative of the same cosine and one that is nearer, in 300 dimensions."""
    x, y, z = normalize(torch.randn(3, 300, generator=torch.Generator().manual_seed(seed)), dim=1).to(dtype)
    y, near = normalize(x + y, dim=0), normalize(x + 0.9 * y, dim=0)
    options = {"symmetric": False, "false_negative_margin": 0.0, "backend": backend}
    ids = torch.tensor([0, 1, 2, 3])
    candidates = torch.stack([y, y, near, z])
    got = kernels.multi_positive_infonce(x[None], candidates, 10.0, ids[:1], ids, **options)
    want = cross_entropy(10 * (candidates[[0, 1, 3]] @ x), torch.tensor(0))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_positives_never_leave(backend, seed):
    """With every negative gone `each` and `logsum` are 0, and `mean` is the log of the number of positives at least."""
    p = random_arguments(seed, M, N, 5, 100.0, num_ids=3, false_negative_margin=-3.0, backend=backend)
    for loss in ("each", "logsum"):
        assert all(torch.allclose(v, torch.zeros_like(v), atol=1e-12) for v in run(loss, p).values())
    assert run("mean", p)["value"] > 0.5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's exp2(large)
@pytest.mark.parametrize("backend", ["reference", "chunked", pytest.param("triton", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_leaves_both_denominators_leaves_nothing_behind(loss, backend, small_chunks):
    """Each row has a candidate of cosine 1, and its positive and all others have 0: e^100 is infinite in float32."""
    if backend == "triton":
        pytest.importorskip("triton")
    x, ids = torch.eye(8), torch.arange(8)
    leaf, t = x.clone().requires_grad_(), torch.tensor(100.0, requires_grad=True)
    value = kernels.multi_positive_infonce(
        leaf, x.roll(-1, 0), t, ids, ids, positives=loss, false_negative_margin=0.0, backend=backend
    )
    value.backward()
    torch.testing.assert_close(value, torch.tensor(7.0).log())
    assert leaf.grad is not None
    assert t.grad == 0
    # G_ij is 1/8 [1/7 for what counts, 0 for what left, and -1 for the positives], and dL/dx is 100 G y
    G = (torch.ones(8, 8) - x.roll(1, 0)) / 7 - x
    torch.testing.assert_close(leaf.grad, 100 / 8 * G @ x.roll(-1, 0))


@pytest.mark.parametrize("scale", [-9.0, 0.0, 400.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_dropped_logit_may_be_of_any_size(loss, scale, seed, small_chunks):
    """At 400 its exponential leaves float32; at 0 and below logits no longer tell who is near."""
    p = draw_case(seed, exclude_self=False, weighted=False, false_negative_margin=0.0)
    p = replace(p, scale=torch.tensor(scale, dtype=torch.float64))
    want = run(loss, p, backend="reference")
    assert_equal(run(loss, p, backend="chunked"), want, 1e-10, seed)
    assert_equal(run(loss, p.to(torch.float32), backend="chunked"), want, 2e-6 * max(1.0, scale) ** 2, seed)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about the interpreter")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's log2(0)
@pytest.mark.parametrize("loss", LOSSES)
def test_tiles_equal_the_dense_loss(loss, seed):
    pytest.importorskip("triton")
    smoothed, dropped = FEATURES["smoothing and log-weights"](seed), FEATURES["false negatives and log-weights"](seed)
    p = draw_case(seed, exclude_self=True, weighted=True, **smoothed)
    q = draw_case(seed, exclude_self=False, weighted=False, **dropped).to(torch.float32)
    assert_equal(run(loss, q, backend="triton"), run(loss, q.to(torch.float64), backend="reference"), 2e-4, seed)
    cases = [p]
    for k, feature in enumerate(("hardness", "hardness and false negatives", "guided")):
        options = FEATURES[feature](seed + k)
        cases.append(draw_case(seed + k, exclude_self=k % 2 == 0, weighted=(seed + k) % 2 == 0, **options))
    for p in cases:
        for dtype, tolerance in ((torch.float32, 2e-4), (torch.float16, 4e-2)):
            q = p.to(torch.float32).halved(dtype)
            want = run(loss, q.to(torch.float64), -2.5, backend="reference")
            assert_equal(run(loss, q, -2.5, backend="triton"), want, tolerance, (seed, dtype))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about the interpreter")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's log2(0)
@pytest.mark.parametrize(("loss", "symmetric"), [("each", True), ("mean", False)])
def test_tiles_with_all_that_goes_together(loss, symmetric, seed):
    """Several tiles, whose hard negatives are weighed, judged by a guide of another width, and weighted by item."""
    pytest.importorskip("triton")
    draw = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"hardness": 4.0, "false_negative_margin": 0.05, "symmetric": symmetric}
    for side, n in (("x", 41), ("y", 39)):
        options[f"{side}_guide"] = normalize(torch.randn(n, 37, generator=draw), dim=1)
        options[f"{side}_log_weight"] = torch.randn(n, generator=draw)
        options[f"{side}_weight"] = torch.randint(0, 3, (n,), generator=draw) * 0.5
    p = random_arguments(seed, 41, 39, 19, 15.0, num_ids=20, **options).to(torch.float32)
    want = run(loss, p.to(torch.float64), -2.5, backend="reference")
    assert_equal(run(loss, p, -2.5, backend="triton"), want, 2e-4, seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0.*0 <= label_smoothing < 1"),
        ({"label_smoothing": -0.1}, r"label_smoothing is -0\.1"),
        ({"y_log_weight": torch.zeros(M)}, r"y_log_weight has shape \[13\], but y has 19 rows"),
        ({"x_log_weight": torch.zeros(M).index_fill(0, torch.tensor(2), torch.inf)}, r"x_log_weight.*inf.*finite"),
        ({"y_log_weight": torch.zeros(N, requires_grad=True)}, r"y_log_weight requires a gradient.*detach"),
        ({"hardness": -1.0}, r"hardness is -1\.0: it must be finite and >= 0"),
        ({"false_negative_margin": float("nan")}, r"false_negative_margin is nan: it must be finite"),
        (
            {"false_negative_margin": 0.0, "label_smoothing": 0.1},
            r"label_smoothing is 0\.1 and false_negative_margin 0\.0",
        ),
        ({"false_negative_margin": 0.0, "x_guide": torch.ones(M, 2)}, r"x_guide came without y_guide"),
        (draw_guides(0), r"no false_negative_margin is given"),
        (
            draw_guides(0) | {"x_guide": torch.ones(N, 3), "false_negative_margin": 0.0},
            r"x_guide has 19 rows.*x has 13",
        ),
        (draw_guides(0) | {"y_guide": torch.ones(N, 2), "false_negative_margin": 0.0}, r"y_guide has 2.*one guide"),
    ],
)
def test_what_is_refused(options, message):
    p = random_arguments(0, M, N, 5, 9.0, num_ids=3)
    with pytest.raises(ValueError, match=message):
        run("mean", p, **options)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's log2(0)
@pytest.mark.parametrize("backend", ["chunked", pytest.param("triton", marks=pytest.mark.slow)])
def test_prefixes_with_hardness_and_a_guide(backend, seed, small_chunks):
    """Each prefix is a loss of its own unit rows, with the same guide, which no prefix cuts."""
    if backend == "triton":
        pytest.importorskip("triton")
    dtype, tolerance = (torch.float32, 2e-5) if backend == "triton" else (torch.float64, 1e-12)
    guides = {name: guide.double() for name, guide in draw_guides(seed).items()}
    options = {"positives": "each", "hardness": 5.0, "false_negative_margin": 0.1} | guides
    p = random_arguments(seed, M, N, 5, 9.0, num_ids=3)
    prefixes = {2: 0.5, 4: 1.0}
    x, y, t = (v.clone().requires_grad_() for v in (p.x, p.y, p.scale))

    def loss_of(d: int) -> Tensor:
        u, v = (normalize(z[:, :d], dim=1) for z in (x, y))
        return kernels.multi_positive_infonce(u, v, t, p.x_ids, p.y_ids, backend="reference", **options)

    total = sum(weight * loss_of(d) for d, weight in prefixes.items())
    want = total.detach(), *torch.autograd.grad(total, (x, y, t))
    leaves = [v.detach().to(dtype).requires_grad_() for v in (x, y, t)]
    value = kernels.matryoshka(
        kernels.multi_positive_infonce, *leaves, p.x_ids, p.y_ids, prefixes=prefixes, backend=backend, **options
    )
    for got, exact in zip((value.detach(), *torch.autograd.grad(value, leaves)), want, strict=True):
        torch.testing.assert_close(got.double(), exact, atol=tolerance, rtol=tolerance)
