"""The operators as torch sees them: registrations hold, problems survive packing, gradients are results, a backend is a
module by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from loss_arguments import Inside, assert_equal, random_arguments
from op_programs import LOSSES, VIEWS, M, N, evaluate, inputs, train, weights_for
from torch import Tensor

from kernels import backends, checks, dispatch, ops, reference
from kernels.autograd import Wanted
from kernels.chunked import losses
from kernels.problem import Problem

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
    leaves = {"x": x, "y": y, "scale": t} | ({"bias": b} if loss == "sigmoid" else {})
    for leaf, want in zip(leaves.values(), wanted, strict=False):
        leaf.requires_grad_(want)
    asked = dict(zip(leaves, wanted, strict=False))
    options = {"exclude": "self", "x_offset": 2, "backend": "chunked", "wanted": Wanted(**asked)}
    if loss != "sigmoid":
        options |= {"positives": loss, "symmetric": seed % 2 == 0}
    if seed % 3 == 0:
        options |= {"prefixes": (2, x.shape[1]), "prefix_weights": (1.0, 0.5)}
    weighted = {name: w.to(t.dtype) for name, w in weights_for(loss, seed).items()}
    op = ops.sigmoid_op if loss == "sigmoid" else ops.infonce_op
    for weights in (weighted, {}):
        problem = Problem(**leaves, x_ids=x_ids, y_ids=y_ids, **weights, **options)
        torch.library.opcheck(op, *ops.pack(problem))


@pytest.mark.parametrize("exclude", ["none", "self", "group"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_contrast_lse_passes_opcheck(exclude, dtype, seed):
    x, y, t, _, x_ids, y_ids = inputs(seed, dtype)
    t = t.detach().float().reshape(()).requires_grad_()
    ids = {"x_ids": x_ids, "y_ids": y_ids} if exclude == "group" else {}
    problem = Problem(x=x, y=y, scale=t, **ids, exclude=exclude, x_offset=1, backend="chunked")
    torch.library.opcheck(ops.contrast_lse_op, *ops.pack(problem))
    with torch.no_grad():
        row, column = ops.lse(problem)
        upstream = torch.randn(M), torch.randn(()).expand(N)
        for wanted in (Wanted(x=True, y=True, scale=True), Wanted(y=True)):
            tensors, options = ops.pack(replace(problem, wanted=wanted))
            torch.library.opcheck(ops.contrast_lse_backward_op, (row, column, *upstream, *tensors), options)


def test_a_problem_survives_packing(one_rank):
    """Every field has a value of its own, and the group goes by its name."""
    tensors = {name: torch.full((), k) for k, name in enumerate(ops.TENSORS)}
    group = dist.new_group([0])
    options = {"exclude": "group", "x_offset": 3, "positives": "each", "symmetric": False, "group": group}
    problem = Problem(**tensors, **options, wanted=Wanted(y=True, bias=True), backend="triton")
    assert {field.name for field in fields(Problem)} == {*ops.TENSORS, *ops.OPTIONS}
    packed, named = ops.pack(problem)
    assert named["group"] == group.group_name
    assert ops.unpack(packed, named) == problem


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("loss", ["mean", "sigmoid"])
def test_a_grad_scaler_saves_small_float16_gradients(loss, seed):
    """Without the scaler's 2^16 many gradients are below 6e-8, which float16 rounds to 0."""
    p = random_arguments(seed, 400, 400, 64, 0.02, num_ids=400).to(torch.float16)
    found = {}
    for dtype in (torch.float16, torch.float64):
        x = p.x.to(dtype).requires_grad_()
        scale = torch.tensor(0.002, dtype=torch.float64)
        value = evaluate(loss, x, p.y.to(dtype), scale, -12.0, p.x_ids, p.y_ids)
        (found[dtype],) = torch.autograd.grad(value * 2.0**16 / 400, x)
    assert (found[torch.float64].abs() / 2**16 < 2**-25).float().mean() > 0.1  # would have been rounded to 0
    assert_equal({"x": found[torch.float16]}, {"x": found[torch.float64]}, 2e-3 * found[torch.float64].abs().max())


def test_gradients_are_results_that_nothing_flows_through(seed):
    """They are not differentiable, and backward makes no zeros of their size for them."""
    x, y, t, _, x_ids, y_ids = inputs(seed)
    wanted = Wanted(x=True, y=True, scale=True)
    problem = Problem(x=x, y=y, scale=t.reshape(()), x_ids=x_ids, y_ids=y_ids, wanted=wanted, backend="chunked")
    tensors, options = ops.pack(problem)
    value, *gradients = ops.infonce_op(*tensors, **options)
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
    value = evaluate(loss, x, *others) if loss == "contrast_lse" else Ignored.apply(evaluate(loss, x, *others))
    (0 * value + x.sum()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))


class Elsewhere(Tensor):
    """Says that it is not on the CPU."""

    is_cpu = False


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
@pytest.mark.parametrize("side", ["x_weight", "y_weight"])
@pytest.mark.parametrize("bad", [None, -0.5, torch.nan])
def test_a_wrong_weight_that_the_host_may_not_read_makes_the_loss_nan(loss, side, bad, seed):
    arguments, weights = inputs(seed, torch.float32), weights_for(loss, seed)
    want = train(lambda *a, **w: evaluate(loss, *a, **w), arguments, **weights)
    if bad is not None:
        weights[side][3] = bad
    weights[side] = weights[side].as_subclass(Elsewhere)
    got = train(lambda *a, **w: evaluate(loss, *a, **w), arguments, **weights)
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
    for result in train(lambda *a, **w: evaluate(loss, *a, backend=backend, **w), arguments, **weights).values():
        assert result.isnan().all() if bad is not None else result.isfinite().all()


def test_a_backend_is_a_module_by_name(monkeypatch, seed):
    """It is imported when it is first used, and told which gradients are wanted."""
    asked = []

    def infonce(problem):
        asked.append(problem.wanted)
        value, gradients = losses.infonce(problem)
        return 3 * value, gradients

    monkeypatch.setitem(sys.modules, "another_backend", SimpleNamespace(infonce=infonce))
    monkeypatch.setitem(backends.BACKENDS, "another", "another_backend")
    monkeypatch.setattr(dispatch, "BACKENDS", (*dispatch.BACKENDS, "another"))
    x, y, *others = inputs(seed)
    y = y.detach()
    torch.testing.assert_close(evaluate("mean", x, y, *others, backend="another"), 3 * evaluate("mean", x, y, *others))
    with torch.no_grad():
        evaluate("mean", x, y, *others, backend="another")
    assert asked == [Wanted(x=True, scale=True), Wanted()]


@pytest.mark.parametrize("name", [*backends.BACKENDS, "reference"])
def test_every_backend_keeps_to_its_protocol(name):
    """It has the functions; pyright compares their signatures, in kernels/contracts.py."""
    if name == "triton":
        pytest.importorskip("triton")
    if name == "reference":
        assert isinstance(reference, backends.Losses)
    else:
        assert isinstance(backends.load(name), backends.Backend)


def test_importing_the_package_imports_no_backend():
    program = "import sys, torch; before = set(sys.modules); import kernels; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stdout.split())
    assert "kernels.ops" in loaded
    assert not {name for name in loaded if name.split(".")[0] == "triton" or name in backends.BACKENDS.values()}


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("dtype", checks.FLOATS)
def test_the_backend_that_auto_takes(installed, device, dtype, monkeypatch):
    monkeypatch.setattr(dispatch, "HAS_TRITON", installed)
    triton = installed and device == "cuda" and dtype != torch.float64
    assert dispatch.backend_for(torch.empty(2, 2, dtype=dtype, device=device)) == ("triton" if triton else "chunked")
