"""The Triton kernels agree with float64: in the interpreter without a GPU, on the GPU where there is one.

What the interpreter cannot show: TensorFloat-32, bfloat16 products (it multiplies in float32), races, registers.
Ahead-of-time compiles are in test_compile.py, and tests with the `gpu` marker run where there is a device.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_arguments import Arguments, assert_equal, random_arguments, run
from torch.nn.functional import normalize

import kernels

pytest.importorskip("triton")
from kernels import scratch
from kernels.tiles import configs
from kernels.tiles.configs import KERNELS, Config
from kernels.tiles.tile import multiply

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")
ROWS_ONLY = ("mean", "logsum", "each")
"""losses that may be of rows alone"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter's log2(0) and exp2(large)
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def ieee_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def compare(loss: str, p: Arguments, tolerance: float, note: object = "", **options) -> None:
    """Compares Triton on p with the dense float64 loss of the very same numbers."""
    upstream = -2.5
    got = run(loss, p.on(DEVICE), upstream, backend="triton", **options)
    want = run(loss, p.to(torch.float64), upstream, backend="reference", **options)
    got = {name: value.cpu() for name, value in got.items()}
    for gradients in (got, want):  # of a scale they grow with the logits; all others are of order 1 over the rows
        gradients.update({k: v / max(abs(float(p.scale)), 1.0) for k, v in gradients.items() if k == "x" or k == "y"})
    assert_equal(got, want, tolerance, note)


problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31 - 1),
        "m": st.integers(1, 80),
        "n": st.integers(1, 80),
        "d": st.integers(1, 80),
        "scale": st.sampled_from([0.0, 1.0, 14.3, 40.0, 100.0, -20.0]),
        "num_ids": st.sampled_from([1, 8, 400]),
    }
)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=5, deadline=None)
@given(
    problem=problems,
    weighted=st.booleans(),
    itself=st.booleans(),
    symmetric=st.booleans(),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_equals_the_dense_loss(loss, problem, weighted, itself, symmetric, dtype):
    """It does for ragged shapes, any D, unsorted ids, lone rows, zero weights, self-exclusion, both exponentials, and
    where only rows count."""
    if itself:
        problem["n"] = max(problem["n"], problem["m"])
    p = random_arguments(**problem).to(torch.float32)
    m, n = problem["m"], problem["n"]
    options = {}
    if loss == "contrast_lse":
        options["exclude"] = "self" if itself else ("group" if weighted else "none")
    else:
        options["exclude_self"] = itself
        if loss != "sigmoid":
            options["symmetric"] = symmetric
        if weighted:
            draw = torch.Generator().manual_seed(problem["seed"])
            w, v = (torch.rand(k, generator=draw) * (torch.rand(k, generator=draw) > 0.3) for k in (m, n))
            options |= {"x_weight": w.to(DEVICE), "y_weight": v.to(DEVICE)}
    if itself:
        options["x_offset"] = (n - m) // 2
    if dtype == "float16":
        p = p.halved(torch.float16)
    compare(loss, p, 2e-5 if dtype == "float32" else 4e-3, (problem, options), **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_chunks_of_rows_are_the_whole(loss, monkeypatch):
    """There is scratch for 32 rows at a time: many chunks, the last one ragged."""
    monkeypatch.setattr(scratch, "_limit", 32 * 72 * 4)
    p = random_arguments(torch.seed() % 2**31, 90, 70, 24, 20.0, num_ids=30).to(torch.float32)
    compare(loss, p, 1e-5)
    if loss in ROWS_ONLY:
        compare(loss, p, 1e-5, symmetric=False)


@pytest.mark.parametrize("loss", LOSSES)
def test_persistent_programs_and_other_tiles_change_nothing_but_rounding(loss):
    p = random_arguments(torch.seed() % 2**31, 70, 90, 40, 20.0, num_ids=30).to(torch.float32)
    with_tiles = Config(16, 32, 32, 4, 2, group=3, programs=3)
    with ExitStack() as stack:
        for kernel in KERNELS:
            stack.enter_context(configs.override(kernel, with_tiles))
        compare(loss, p, 1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_bits_every_time(loss):
    p = random_arguments(torch.seed() % 2**31, 40, 50, 20, 30.0, num_ids=20).to(torch.float32).on(DEVICE)
    first, second = (run(loss, p, backend="triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "contrast_lse"])
def test_one_hot_row_does_not_silence_the_others(loss):
    """One reference for all exponentials is too high here: 33 of 256 columns would be -inf. The exact pass steps in."""
    draw = torch.Generator().manual_seed(torch.seed() % 2**31)
    x, y = normalize(torch.randn(64, 48, generator=draw), dim=1), normalize(torch.randn(80, 48, generator=draw), dim=1)
    x[0], y[:40] = 3.0 * y[3], -y[:40]
    ids = torch.arange(80) % 50
    p = Arguments(x, y, torch.tensor(100.0), torch.tensor(0.0), ids[:64], ids)
    compare(loss, p, 300 * 2**-22)  # float32 rounds a logit of 300 by 300 / 2^24, some times on its way
    if loss in ROWS_ONLY:
        compare(loss, p, 300 * 2**-22, symmetric=False)


@pytest.mark.skipif(DEVICE == "cuda", reason="counts what the interpreter does")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
def test_passes_over_the_logits(loss, symmetric, monkeypatch):
    """Two passes, one where only rows count and one for the sigmoid, whatever the order of the ids; what is about
    positives alone forms the 3 tiles along the diagonal of 9."""
    formed = {"lse": 0, "gradient": 0, "sigmoid": 0}
    for name in formed:

        def count(*arguments, name=name):
            formed[name] += 1
            return multiply(*arguments)

        monkeypatch.setattr(f"kernels.tiles.{name}.multiply", count)
    p = random_arguments(torch.seed() % 2**31, 96, 96, 8, 10.0, num_ids=1).to(torch.float32)
    ids = torch.arange(96) // 2
    p = replace(p, x_ids=ids[torch.randperm(96)], y_ids=ids[torch.randperm(96)])
    run(loss, p, backend="triton", **{} if loss == "sigmoid" else {"symmetric": symmetric})
    want = {
        ("mean", True): (9, 9, 0), ("logsum", True): (9 + 3, 9, 0), ("each", True): (9, 9 + 3, 0),
        ("mean", False): (9, 3, 0), ("logsum", False): (9 + 3, 3, 0), ("each", False): (9, 3 + 3, 0),
    }.get((loss, symmetric), (0, 0, 9))  # fmt: skip
    assert tuple(formed.values()) == want


@pytest.mark.parametrize("loss", ROWS_ONLY)
def test_bfloat16_where_only_rows_count(loss):
    """A converged batch, whose gradient is a small difference: the positives are subtracted before G is rounded."""
    p = random_arguments(torch.seed() % 2**31, 40, 40, 24, 20.0, num_ids=1)
    p = (
        replace(p, y=p.x.clone(), x_ids=torch.arange(40), y_ids=torch.arange(40))
        .to(torch.float32)
        .halved(torch.bfloat16)
    )
    compare(loss, p, 2e-2, symmetric=False)


def test_neighbouring_ids_and_shuffled_ids_agree():
    """Tiles whose ids are far apart skip the comparison; the order of the samples must not matter."""
    p = random_arguments(torch.seed() % 2**31, 48, 48, 16, 10.0, num_ids=1).to(torch.float32)
    ids, order = torch.arange(48) // 3, torch.randperm(48)
    shuffled = replace(p, x=p.x[order], y=p.y[order], x_ids=ids[order], y_ids=ids[order])
    for loss in ("mean", "logsum", "each", "sigmoid"):
        a = run(loss, replace(p, x_ids=ids, y_ids=ids).on(DEVICE), backend="triton")
        b = run(loss, shuffled.on(DEVICE), backend="triton")
        assert_equal({"x": a["x"][order.to(DEVICE)]}, {"x": b["x"]}, 1e-5)


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("copies", [1, 3])
def test_rounded_products_never_pass_the_floor(precision, copies):
    """With TensorFloat-32 the positives see the same rounded operands as the log-sum-exps."""
    torch.set_float32_matmul_precision(precision)
    draw = torch.Generator().manual_seed(torch.seed() % 2**31)
    x = normalize(torch.randn(40, 30, generator=draw), dim=1).repeat(copies, 1).to(DEVICE)
    ids = torch.arange(40, device=DEVICE).repeat(copies)
    value = kernels.multi_positive_infonce(x, x, 100.0, ids, ids, backend="triton").item()
    floor = torch.tensor(float(copies)).log().item()
    assert floor - 1e-6 <= value <= floor + 0.05


def test_an_absent_row_of_nan_reaches_nothing():
    p = random_arguments(torch.seed() % 2**31, 40, 50, 12, 10.0, num_ids=9).to(torch.float32)
    w = torch.ones(40, device=DEVICE)
    w[7] = 0.0
    x = p.x.clone()
    x[7] = torch.nan
    for loss in ("mean", "logsum", "each", "sigmoid"):
        dirty = run(loss, replace(p, x=x).on(DEVICE), x_weight=w, backend="triton")
        clean = run(loss, p.on(DEVICE), x_weight=w, backend="triton")
        assert all(torch.equal(dirty[name], clean[name]) for name in clean), loss


def test_scratch_limit_says_what_is_too_small():
    with pytest.raises(ValueError, match="1000 bytes"):
        kernels.set_scratch_limit(1000)


def test_every_kernel_has_a_configuration_for_every_width():
    for kernel in KERNELS:
        for size in (2, 4):
            assert configs.choose(kernel, 999, size, 10**6, 10**6, 132) == configs.TABLE[configs.DEFAULT, kernel, size]
            assert configs.choose(kernel, 90, size, 64, 64, 132).block_m <= configs.TABLE[90, kernel, size].block_m


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_on_the_device_no_worse_than_the_naive_loss_in_its_type(loss, dtype):
    """The error against float64 of these rounded features is at most the naive half-precision loss's, and a little."""
    p = random_arguments(torch.seed() % 2**31, 1500, 1337, 200, 50.0, num_ids=700).to(torch.float32).halved(dtype)
    want = run(loss, p.to(torch.float64), backend="reference")
    ours, naive = (
        {k: v.cpu().double() for k, v in run(loss, p.on(DEVICE), backend=backend).items()}
        for backend in ("triton", "reference")
    )
    for name, exact in want.items():
        size = exact.abs().max().clamp_min(1e-12)
        error, allowed = ((r[name] - exact).abs().max() / size for r in (ours, naive))
        assert error <= allowed + 8e-3, (name, error, allowed)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_step_can_be_captured_in_a_cuda_graph():
    """Nothing waits for the device: a loss and its gradients replay from a graph with new numbers."""
    p = random_arguments(3, 512, 640, 64, 20.0, num_ids=300).to(torch.bfloat16).on(DEVICE)
    x, y, t = p.x.clone(), p.y.clone(), p.scale.clone()

    def step():
        leaves = [v.detach().requires_grad_() for v in (x, y, t)]
        value = kernels.multi_positive_infonce(*leaves, p.x_ids, p.y_ids, backend="triton")
        return value.detach(), *torch.autograd.grad(value, leaves)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(normalize(torch.randn_like(x.float()), dim=1).to(x.dtype))
    graph.replay()
    for got, want in zip(captured, step(), strict=True):
        assert torch.equal(got, want)


@settings(max_examples=5, deadline=None)
@given(problem=problems, k=st.integers(1, 12))
def test_khatri_rao_equals_the_dense_one(problem, k):
    p = random_arguments(**problem).to(torch.float32)
    draw = torch.Generator().manual_seed(problem["seed"])
    z, g = normalize(torch.randn(k, problem["d"], generator=draw), dim=1), torch.randn(problem["m"], generator=draw)

    def results(device: str, dtype: torch.dtype, backend: str) -> dict[str, torch.Tensor]:
        inputs = {"x": p.x, "y": p.y, "z": z, "scale": p.scale}
        leaves = {name: v.detach().to(device, dtype).requires_grad_() for name, v in inputs.items()}
        row = kernels.khatri_rao_lse(*leaves.values(), backend=backend)
        (row @ g.to(device, dtype)).backward()
        return {"row": row.detach().cpu()} | {name: v.grad.cpu() for name, v in leaves.items()}

    got, want = results(DEVICE, torch.float32, "triton"), results("cpu", torch.float64, "reference")
    assert_equal(got, want, 2e-5, (problem, k))
