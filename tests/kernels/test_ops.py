"""The operators as torch sees them: registrations hold, gradients are results, a backend is a module by name."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from kernel_problems import Inside, assert_equal, random_problem
from op_programs import LOSSES, VIEWS, M, N, inputs, of, trained, weights_for
from torch import Tensor

from kernels import dispatch, ops
from kernels.chunked import losses

pytestmark = pytest.mark.slow
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
@pytest.mark.parametrize("form", ["plain", "transposed"])
@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.float32, (True, True, True, True)),
        (torch.float16, (True, False, False, True)),
        (torch.bfloat16, (False, True, True, False)),
        (torch.float64, (False, False, False, False)),
    ],
)
def test_losses_pass_opcheck(loss, form, dtype, wanted, seed):
    x, y, t, b, x_ids, y_ids = inputs(seed, dtype, form)
    x, y = (VIEWS[form](z, None).detach() for z in (x, y))
    t, b = (v.detach().reshape(()).to(torch.promote_types(dtype, torch.float32)) for v in (t, b))
    weights = [w.to(t.dtype) for w in weights_for(loss, seed).values()]
    options = {"exclude_self": True, "x_offset": 2, "group": None, "backend": "chunked"}
    scalars = [t, b] if loss == "sigmoid" else [t]
    if loss != "sigmoid":
        options |= {"positives": loss, "symmetric": seed % 2 == 0}
    differentiated = [v.requires_grad_(want) for v, want in zip((x, y, *scalars), wanted, strict=False)]
    options["wanted"] = wanted[: len(differentiated)]
    op = ops.sigmoid if loss == "sigmoid" else ops.infonce
    torch.library.opcheck(op, (*differentiated, x_ids, y_ids, *weights), options)
    torch.library.opcheck(op, (*differentiated, x_ids, y_ids, None, None), options)


@pytest.mark.parametrize("exclude", ["none", "self", "group"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_contrast_lse_passes_opcheck(exclude, dtype, seed):
    x, y, t, _, x_ids, y_ids = inputs(seed, dtype)
    t = t.detach().float().reshape(()).requires_grad_()
    ids = (x_ids, y_ids) if exclude == "group" else (None, None)
    options = {"exclude": exclude, "x_offset": 1, "backend": "chunked"}
    torch.library.opcheck(ops.contrast_lse, (x, y, t, *ids), {**options, "group": None})
    with torch.no_grad():
        row, column = ops.contrast_lse(x, y, t, *ids, **options, group=None)
        upstream = torch.randn(M), torch.randn(()).expand(N)
        arguments = (x, y, t, row, column, *upstream, *ids)
        for wanted in ((True, True, True), (False, True, False)):
            torch.library.opcheck(ops.contrast_lse_backward, arguments, {**options, "wanted": wanted})


@pytest.mark.parametrize("loss", ["mean", "sigmoid"])
def test_a_grad_scaler_saves_small_float16_gradients(loss, seed):
    """Unscaled, many are below 6e-8, which is nothing in float16; times 2^16 they are not."""
    p = random_problem(seed, 400, 400, 64, 0.02, num_ids=400).to(torch.float16)
    found = {}
    for dtype in (torch.float16, torch.float64):
        x = p.x.to(dtype).requires_grad_()
        scale = torch.tensor(0.002, dtype=torch.float64)
        value = of(loss, x, p.y.to(dtype), scale, -12.0, p.x_ids, p.y_ids)
        (found[dtype],) = torch.autograd.grad(value * 2.0**16 / 400, x)
    assert (found[torch.float64].abs() / 2**16 < 2**-25).float().mean() > 0.1  # would have been rounded to 0
    assert_equal({"x": found[torch.float16]}, {"x": found[torch.float64]}, 2e-3 * found[torch.float64].abs().max())


def test_gradients_are_results_that_nothing_flows_through(seed):
    """Neither are they differentiable, nor does backward make zeros of their size for them."""
    x, y, t, _, x_ids, y_ids = inputs(seed)
    options = {"positives": "mean", "exclude_self": False, "symmetric": True, "x_offset": 0, "group": None}
    options |= {"backend": "chunked", "wanted": (True, True, True)}
    value, *gradients = ops.infonce(x, y, t.reshape(()), x_ids, y_ids, None, None, **options)
    assert value.requires_grad
    assert not any(gradient.requires_grad for gradient in gradients)

    class Made(Inside):
        functions = ()

        def seen(self, func, result):
            if isinstance(result, Tensor) and result.shape == x.shape:
                self.functions += (func.overloadpacket.__name__,)

    with Made() as made:
        torch.autograd.grad(value, x)
    assert made.functions == ("mul",)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_upstream_gradient_is_no_gradient(loss, seed):
    class Ignored(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value * 2

        @staticmethod
        def backward(ctx, upstream):
            return None

    x, *others = inputs(seed)
    value = of(loss, x, *others) if loss == "contrast_lse" else Ignored.apply(of(loss, x, *others))
    (0 * value + x.sum()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))


class Elsewhere(Tensor):
    """A tensor that says it is not on the CPU."""

    is_cpu = False


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
@pytest.mark.parametrize("side", ["x_weight", "y_weight"])
@pytest.mark.parametrize("bad", [None, -0.5, torch.nan])
def test_a_wrong_weight_that_the_host_may_not_read_makes_the_loss_nan(loss, side, bad, seed):
    arguments, weights = inputs(seed, torch.float32), weights_for(loss, seed)
    want = trained(lambda *a, **w: of(loss, *a, **w), arguments, **weights)
    if bad is not None:
        weights[side][3] = bad
    weights[side] = weights[side].as_subclass(Elsewhere)
    got = trained(lambda *a, **w: of(loss, *a, **w), arguments, **weights)
    if bad is None:
        assert_equal(got, want, 0.0, f"seed {seed}")
    assert all(result.isnan().all() for result in got.values()) == (bad is not None)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
@pytest.mark.parametrize("backend", ["chunked", "triton"])
@pytest.mark.parametrize("bad", [None, -0.5, torch.nan])
def test_a_wrong_weight_makes_the_loss_nan_on_a_gpu(loss, backend, bad, seed):
    arguments = [v.detach().cuda().requires_grad_(v.requires_grad) for v in inputs(seed, torch.float32)]
    weights = {name: weight.cuda() for name, weight in weights_for(loss, seed).items()}
    if bad is not None:
        weights["x_weight"][3] = bad
    for result in trained(lambda *a, **w: of(loss, *a, backend=backend, **w), arguments, **weights).values():
        assert result.isnan().all() if bad is not None else result.isfinite().all()


def test_a_backend_is_a_module_by_name(monkeypatch, seed):
    """Imported when it is first used, and told which gradients are wanted."""
    asked = []

    def infonce(*arguments, wanted, **options):
        asked.append(wanted)
        value, gradients = losses.infonce(*arguments, wanted=wanted, **options)
        return 3 * value, gradients

    monkeypatch.setitem(sys.modules, "another_backend", SimpleNamespace(infonce=infonce))
    monkeypatch.setitem(ops.BACKENDS, "another", "another_backend")
    monkeypatch.setattr(dispatch, "BACKENDS", (*dispatch.BACKENDS, "another"))
    x, y, *others = inputs(seed)
    y = y.detach()
    torch.testing.assert_close(of("mean", x, y, *others, backend="another"), 3 * of("mean", x, y, *others))
    with torch.no_grad():
        of("mean", x, y, *others, backend="another")
    assert asked == [(True, False, True), (False, False, False)]


def test_importing_the_package_imports_no_backend():
    program = "import sys, torch; before = set(sys.modules); import kernels; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stdout.split())
    assert "kernels.ops" in loaded
    assert not {name for name in loaded if name.split(".")[0] == "triton" or name in ops.BACKENDS.values()}


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("dtype", dispatch.FLOATS)
def test_the_backend_that_auto_takes(installed, device, dtype, monkeypatch):
    monkeypatch.setattr(dispatch, "HAS_TRITON", installed)
    triton = installed and device == "cuda" and dtype != torch.float64
    assert dispatch.backend_for(torch.empty(2, 2, dtype=dtype, device=device)) == ("triton" if triton else "chunked")
