"""khatri_rao_lse agrees with all products one by one in float64, in linear memory, in autograd and torch.compile."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_memory import Live
from torch.nn.functional import normalize

import kernels
import kernels.chunked.khatri_rao
from kernels import khatri_rao_lse

pytestmark = pytest.mark.slow


def problem(seed, m, n, k, d, scale, dtype=torch.float64):
    """Draws unit rows x, y, z, a scale of shape [1], and an upstream gradient of any sign."""
    draw = torch.Generator().manual_seed(seed)
    rows = [normalize(torch.randn(size, d, generator=draw, dtype=torch.float64), dim=1) for size in (m, n, k)]
    scale, g = torch.tensor([scale], dtype=torch.float64), torch.randn(m, generator=draw, dtype=torch.float64)
    return *(v.to(dtype) for v in (*rows, scale)), g


def dense(x, y, z, scale):
    """Takes one pair (j, k) at a time, as the definition reads."""
    return torch.stack([scale * (x * y_j * z_k).sum(1) for y_j in y for z_k in z]).logsumexp(0)


def run(function, x, y, z, scale, g, wanted=(True, True, True, True), **options):
    """Computes the row log-sum-exps, and the gradients of g . row."""
    leaves = [v.detach().requires_grad_(want) for v, want in zip((x, y, z, scale), wanted, strict=True)]
    row = function(*leaves, **options)
    row.backward(g.to(row.dtype))
    return row.detach(), *(v.grad for v in leaves)


def assert_equal(got, want, tolerance, note=""):
    """Fails unless each is within tolerance of the other's largest entry (at least 1)."""
    for name, actual, expected in zip(("row", "x", "y", "z", "scale")[: len(want)], got, want, strict=True):
        assert actual.shape == expected.shape, (name, note)
        actual, expected = actual.double(), expected.double()
        error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1.0)
        assert error <= tolerance, f"{name}: {error:.2e} > {tolerance:.0e}; {note}"  # also fails for NaN


@pytest.fixture
def small_blocks(monkeypatch):
    """Makes blocks of some rows and some k, the last of them ragged."""
    monkeypatch.setattr(kernels.chunked.khatri_rao, "CELLS", 60)
    monkeypatch.setattr(kernels.chunked.khatri_rao, "MIN_PAIRS", 5)


sizes = st.integers(1, 11)
cases = st.tuples(
    st.integers(0, 2**31), sizes, sizes, sizes, st.integers(1, 9), st.sampled_from([0.0, 3.0, -8.0, 100.0])
)
several = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@given(case=cases)
@several
def test_float64_is_exact(backend, case, small_blocks):
    p = problem(*case)
    assert_equal(run(khatri_rao_lse, *p, backend=backend), run(dense, *p), 1e-12, case)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@given(case=cases)
@several
def test_float32_is_exact_to_rounding(backend, case, small_blocks):
    p = problem(*case, dtype=torch.float32)
    got = run(khatri_rao_lse, *p, backend=backend)
    want = run(dense, *(v.double() for v in p))
    # a logit of size `scale` is rounded by 6e-8 of it: so far off is a probability, and gradients are scale times one
    scale = max(1.0, abs(case[-1]))
    assert_equal(got[:1], want[:1], 1e-6 * scale, case)
    assert_equal(got, want, 5e-6 * scale + 1e-6 * scale**2, case)


@pytest.mark.parametrize("shape", [(41, 127, 67, 19), (127, 1, 67, 5), (1, 509, 31, 33), (300, 40, 1, 700)])
def test_blocks_of_their_real_size(shape):
    p = problem(torch.seed() % 2**31, *shape, 100.0)
    assert_equal(run(khatri_rao_lse, *p, backend="chunked"), run(khatri_rao_lse, *p, backend="reference"), 1e-12, shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype, small_blocks):
    x, y, z, scale, g = problem(torch.seed() % 2**31, 11, 7, 9, 5, 20.0)
    x, y, z = (v.to(dtype) for v in (x, y, z))
    got = run(khatri_rao_lse, x, y, z, scale, g * 1e-6)  # gradients that float16 has few bits for
    want = run(dense, *(v.double() for v in (x, y, z, scale, g * 1e-6)))
    assert got[0].dtype == torch.float32
    assert [v.dtype for v in got[1:]] == [dtype, dtype, dtype, torch.float64]
    assert_equal(got[:1], want[:1], 1e-5)
    for actual, expected in zip(got[1:4], want[1:4], strict=True):
        torch.testing.assert_close(actual, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1.2e-7)


def test_dtypes_may_differ(small_blocks):
    x, y, z, scale, g = problem(torch.seed() % 2**31, 5, 7, 6, 4, 9.0)
    y, z = y.bfloat16(), z.float()
    got = run(khatri_rao_lse, x, y, z, scale, g)
    assert [v.dtype for v in got[:4]] == [torch.float64, torch.float64, torch.bfloat16, torch.float32]
    assert_equal(got[:2], run(dense, x, y.double(), z.double(), scale, g)[:2], 1e-12)


def test_it_is_the_contrast_with_all_products():
    """With the columns written out, the library's own two-sided function agrees."""
    x, y, z, scale, _ = problem(torch.seed() % 2**31, 12, 8, 9, 6, 14.0)
    products = (y[:, None] * z).flatten(0, 1)
    torch.testing.assert_close(khatri_rao_lse(x, y, z, scale), kernels.contrast_lse(x, products, scale)[0])


def test_y_and_z_are_alike(small_blocks):
    x, y, z, scale, g = problem(torch.seed() % 2**31, 6, 11, 4, 5, 30.0)
    row, dx, dy, dz, dscale = run(khatri_rao_lse, x, y, z, scale, g)
    assert_equal(run(khatri_rao_lse, x, z, y, scale, g), (row, dx, dz, dy, dscale), 1e-12)


def test_one_tensor_as_all_three(small_blocks):
    x, _, _, scale, g = problem(torch.seed() % 2**31, 7, 1, 1, 5, 12.0)

    def gradients(function):
        v, t = x.clone().requires_grad_(), scale.clone().requires_grad_()
        function(v, v, v, t).backward(g)
        return v.grad, t.grad

    torch.testing.assert_close(gradients(khatri_rao_lse), gradients(dense), rtol=1e-12, atol=1e-12)


def test_strips_add_up(small_blocks):
    *p, g = problem(torch.seed() % 2**31, 9, 6, 5, 4, 10.0)
    x, *others = p
    strips = [run(khatri_rao_lse, x[s], *others, g[s]) for s in (slice(0, 2), slice(2, 9))]
    row, dx, *sums = zip(*strips, strict=True)
    got = torch.cat(row), torch.cat(dx), *(sum(parts) for parts in sums)
    assert_equal(got, run(khatri_rao_lse, *p, g), 1e-12)


def test_strided_inputs_and_forms_of_scale(small_blocks):
    x, y, z, scale, g = problem(torch.seed() % 2**31, 12, 5, 8, 6, 5.0)
    want = run(dense, x, y, z, scale, g)
    strided = (
        torch.stack([x, torch.full_like(x, torch.nan)], 1)[:, 0],
        y.T.contiguous().T,
        z.flip(0).flip(0).T.clone().T,
    )
    assert_equal(run(khatri_rao_lse, *strided, scale, g.flip(0).flip(0)), want, 1e-12)
    assert_equal(run(khatri_rao_lse, *strided, scale[0], g)[:4], want[:4], 1e-12)
    torch.testing.assert_close(khatri_rao_lse(x, y, z, 5.0), want[0])
    expanded = run(khatri_rao_lse, x, y[:1].expand(3, -1), z, scale, torch.ones(()).expand(12))
    assert_equal(expanded, run(dense, x, y[:1].repeat(3, 1), z, scale, torch.ones(12)), 1e-12)


@pytest.mark.parametrize("index", range(4))
def test_only_what_is_wanted_gets_a_gradient(index, small_blocks):
    p = problem(torch.seed() % 2**31, 6, 7, 5, 3, 6.0)
    everything = run(khatri_rao_lse, *p)
    wanted = tuple(i == index for i in range(4))
    _, *gradients = run(khatri_rao_lse, *p, wanted=wanted)
    assert [gradient is not None for gradient in gradients] == list(wanted)
    torch.testing.assert_close(gradients[index], everything[1 + index], rtol=0, atol=0)


def test_autocast_changes_nothing():
    p = problem(torch.seed() % 2**31, 31, 27, 9, 8, 10.0, torch.float32)
    plain = run(khatri_rao_lse, *p)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(khatri_rao_lse, *p)  # backward inside, too
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


def test_not_a_number_stays_where_it_is(small_blocks):
    x, y, z, scale, g = problem(torch.seed() % 2**31, 6, 7, 5, 3, 6.0)
    bad = x.clone()
    bad[2, 1] = torch.nan
    assert khatri_rao_lse(bad, y, z, scale).isnan().tolist() == [False, False, True, False, False, False]
    z = z.index_fill(0, torch.tensor([4]), torch.nan)
    assert khatri_rao_lse(x, y, z, scale).isnan().all()
    assert run(khatri_rao_lse, x, y, z, scale, g)[2].isnan().all()


def test_logits_that_overflow(small_blocks):
    """A row whose logits are all -inf has a log-sum-exp of -inf and a gradient of 0; the other rows do not notice."""
    x, y, z, scale, g = problem(torch.seed() % 2**31, 4, 3, 5, 2, 1.0, torch.float32)
    y, z = 300 * y.abs(), z.abs()
    x[2] = -3e38
    row, dx, dy, dz, dscale = run(khatri_rao_lse, x, y, z, scale, g)
    assert row.isneginf().tolist() == [False, False, True, False]
    rest = [0, 1, 3]
    others = run(khatri_rao_lse, x[rest], y, z, scale, g[rest])
    assert not dx[2].any()
    assert_equal((row[rest], dx[rest], dy, dz, dscale), others, 1e-3)


def test_it_is_an_operator():
    x, y, z, scale, g = problem(torch.seed() % 2**31, 6, 7, 5, 3, 6.0)
    t = scale[0]
    ops = torch.ops.multimodal_workbench
    inputs = tuple(v.clone().requires_grad_() for v in (x, y, z, t))
    torch.library.opcheck(ops.khatri_rao_lse.default, inputs, {"backend": "chunked"})
    half = x.half(), y.half().requires_grad_(), z.half(), t.float()
    torch.library.opcheck(ops.khatri_rao_lse.default, half, {"backend": "chunked"})
    row = khatri_rao_lse(x, y, z, t)
    for wanted in ([True] * 4, [False, True, False, True]):
        options = {"backend": "chunked", "wanted": wanted}
        torch.library.opcheck(ops.khatri_rao_lse_backward.default, (x, y, z, t, row, g), options)


@pytest.mark.slow
def test_it_compiles_whole():
    p = problem(torch.seed() % 2**31, 9, 7, 5, 4, 6.0, torch.float32)

    def loss(x, y, z, scale):
        return 2 * khatri_rao_lse(x, y * 1.5, z, scale) + x.sum(1)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_equal(run(compiled, *p), run(loss, *p), 1e-6)


X, Y, Z = torch.randn(4, 3), torch.randn(6, 3), torch.randn(5, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.randn(4, 2, 3)}, r"x has shape \[4, 2, 3\]"),
        ({"z": torch.randn(5)}, r"z has shape \[5\]"),
        ({"y": torch.ones(6, 3, dtype=torch.int64)}, r"y is torch.int64.*\.float\(\)"),
        ({"z": torch.randn(5, 2)}, r"x has 3 dimensions, y has 3 and z has 2"),
        ({"z": torch.empty(5, 3, device="meta")}, r"x is on cpu, y on cpu and z on meta"),
        ({"x": torch.empty(0, 3)}, r"x has shape \[0, 3\].*empty"),
        ({"z": torch.empty(0, 3)}, r"z has shape \[0, 3\].*empty"),
        ({"x": X[:, :0], "y": Y[:, :0], "z": Z[:, :0]}, r"x has shape \[4, 0\]"),
        ({"scale": torch.ones(2)}, r"scale has shape \[2\].*\[\] or \[1\]"),
        ({"backend": "cuda"}, r"'cuda'.*'auto', 'reference', 'chunked', 'triton'"),
        ({"backend": "triton", "x": X.double()}, r"'triton'.*float64"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        khatri_rao_lse(**{"x": X, "y": Y, "z": Z, "scale": 1.0} | arguments)


def test_memory_is_linear(monkeypatch):
    """It is counted tensor by tensor, with small blocks."""
    monkeypatch.setattr(kernels.chunked.khatri_rao, "CELLS", 2**10)
    monkeypatch.setattr(kernels.chunked.khatri_rao, "MIN_PAIRS", 8)

    def peak(n, d):
        x, y, z, t, g = problem(0, n, n, n, d, 10.0)
        with Live() as live:
            row = kernels.chunked.khatri_rao.khatri_rao_lse(x, y, z, t[0])
            kernels.chunked.khatri_rao.khatri_rao_gradients(x, y, z, t[0], row, g, (True,) * 4)
        return live.peak

    small, large = peak(48, 8), peak(96, 8)
    assert large < 2.1 * small
    assert large < 96 * 96 * 8 * 8 / 2  # bytes of half of the products y_j * z_k, which N^3 logits exceed twelvefold


@pytest.mark.slow
def test_peak_of_the_process():
    """At N = 320, D = 256 the N^3 logits are 125 MiB, the N^2 D products 100 MiB, in float32: neither ever exists."""
    program = """
import resource, torch
from kernels import khatri_rao_lse
torch.set_num_threads(1)
def step(n, d):
    x, y, z = (torch.nn.functional.normalize(torch.randn(n, d), dim=1).requires_grad_() for _ in range(3))
    khatri_rao_lse(x, y, z, 10.0).sum().backward()
step(64, 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(320, 256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 64 * 1024, f"{done.stdout} KiB"
