"""The operators as torch sees them: their registrations hold, and a compiled program computes what an eager one does.

Trap: an operator whose register_fake is wrong fails only in a compiled program, and often far from here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from kernel_problems import Inside, assert_equal, random_problem
from torch import Tensor
from torch.nn.functional import normalize

import kernels
from kernels import chunked, dispatch, ops

pytestmark = pytest.mark.slow

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")
M, N, D = 13, 17, 5
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def seed() -> int:
    return torch.seed() % 2**31


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch._dynamo.reset()


def of(loss: str, x, y, scale, bias, x_ids, y_ids, **options) -> Tensor:
    """A scalar of any loss. The upstream of contrast_lse's rows varies, that of its columns is expanded."""
    if loss == "contrast_lse":
        row, column = kernels.contrast_lse(x, y, scale, x_ids=x_ids, y_ids=y_ids, **options)
        return (row * torch.arange(len(row))).sum() - 2.5 * column.sum()
    if loss == "sigmoid":
        return kernels.multi_positive_sigmoid(x, y, scale, bias, x_ids, y_ids, **options)
    return kernels.multi_positive_infonce(x, y, scale, x_ids, y_ids, positives=loss, **options)


def inputs(seed: int, dtype: torch.dtype = torch.float64, form: str = "plain") -> list[Tensor]:
    """[x, y, log scale, bias, x_ids, y_ids], the first four leaves that want gradients; `form` is that of x and y."""
    p = random_problem(seed, M, N, D, 6.0, num_ids=3)
    x, y = p.x, p.y
    if form == "one view of several":
        x, y = (torch.stack([z, torch.full_like(z, torch.nan)], 1) for z in (x, y))
    elif form == "transposed":
        x, y = x.T.contiguous(), y.T.contiguous()
    elif form == "expanded":
        x, y = x[:1], y[:1]
    leaves = [v.to(dtype).requires_grad_() for v in (x, y, torch.tensor([1.5]), torch.tensor(-2.0))]
    return [*leaves, p.x_ids, p.y_ids]


VIEWS = {
    "plain": lambda z, _: z,
    "one view of several": lambda z, _: z[:, 0],
    "transposed": lambda z, _: z.T,
    "expanded": lambda z, rows: z.expand(rows, D),
}


def weights_for(loss: str, seed: int) -> dict[str, Tensor]:
    if loss == "contrast_lse":
        return {}
    draw = torch.Generator().manual_seed(seed)
    return {f"{s}_weight": torch.randint(0, 3, (n,), generator=draw) * 0.5 for s, n in (("x", M), ("y", N))}


def trained(program, arguments: list[Tensor], **weights: Tensor) -> dict[str, Tensor]:
    """Value and gradients, for an upstream gradient of -1.5."""
    leaves = arguments[:4]
    value = program(*arguments, **weights)
    gradients = torch.autograd.grad(-1.5 * value, leaves, allow_unused=True)
    assert all(g is None or g.dtype == v.dtype for g, v in zip(gradients, leaves, strict=True))
    found = zip(("x", "y", "scale", "bias"), gradients, strict=True)
    return {"value": value.detach(), **{name: g for name, g in found if g is not None}}


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


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("plain", torch.float64),
        ("one view of several", torch.float32),
        ("transposed", torch.float16),
        ("expanded", torch.bfloat16),
    ],
)
def test_compiled_equals_eager_and_the_reference(loss, form, dtype, seed):
    arguments, weights = inputs(seed, dtype, form), weights_for(loss, seed)
    itself = {"exclude": "self"} if loss == "contrast_lse" else {"exclude_self": True}

    def program(x, y, log_scale, bias, x_ids, y_ids, backend="chunked", **weights):
        x, y = VIEWS[form](x, M), VIEWS[form](y, N)
        return of(loss, x, y, log_scale.exp(), bias, x_ids, y_ids, x_offset=3, backend=backend, **itself, **weights)

    eager = trained(program, arguments, **weights)
    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    got = trained(compiled, arguments, **weights)
    assert_equal(got, eager, 0.0, f"seed {seed}")
    wide = [v.detach().double().requires_grad_() for v in arguments[:4]]
    want = trained(lambda *a, **w: program(*a, backend="reference", **w), [*wide, *arguments[4:]], **weights)
    # a gradient is rounded, multiplied and rounded; that of an expanded row is a sum of such in its own dtype
    assert_equal(eager, want, 8 * torch.finfo(dtype).eps * (M if form == "expanded" else 1), f"seed {seed}")


@pytest.mark.parametrize("loss", ["mean", "sigmoid", "contrast_lse"])
def test_compiled_under_autocast(loss, seed):
    """Towers give bfloat16 then; the losses' own products stay in float32, forward and backward."""
    arguments = inputs(seed, torch.float32)
    tower = torch.randn(D, 8).requires_grad_()

    def program(x, y, log_scale, bias, x_ids, y_ids):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x, y = (normalize(z @ tower, dim=1) for z in (x, y))
            return of(loss, x, y, log_scale.exp(), bias, x_ids, y_ids)

    got = trained(torch.compile(program, fullgraph=True, backend="aot_eager"), arguments)
    assert_equal(got, trained(program, arguments), 0.0, f"seed {seed}")


@pytest.mark.parametrize("loss", ["each", "sigmoid", "contrast_lse"])
def test_compiled_once_for_batches_of_any_size(loss, seed):
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    def program(x, y, log_scale, bias, x_ids, y_ids):
        return of(loss, x, y, log_scale.exp(), bias, x_ids, y_ids)

    compiled = torch.compile(program, fullgraph=True, backend=count, dynamic=True)
    for rows in (6, 9, 12):  # no length that another dimension has: torch would take them for one
        x, y, t, b, x_ids, y_ids = inputs(seed, torch.float64)
        x, x_ids = x.detach()[:rows].requires_grad_(), x_ids[:rows]
        arguments = [x, y, t, b, x_ids, y_ids]
        assert_equal(trained(compiled, arguments), trained(program, arguments), 0.0, f"seed {seed}")
    assert len(graphs) == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_compiled_with_numbers_and_without_gradients(loss, seed):
    x, y, *_, x_ids, y_ids = inputs(seed)

    def program(x, y):
        return of(loss, x, y, 7.0, -1.0, x_ids, y_ids)

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        value = compiled(x, y)
    assert not value.requires_grad
    assert torch.equal(value, program(x, y).detach())
    assert torch.equal(torch.autograd.grad(compiled(x, y), x)[0], torch.autograd.grad(program(x, y), x)[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler here")
@pytest.mark.parametrize("loss", ["mean", "sigmoid", "contrast_lse"])
def test_compiled_by_inductor(loss, seed):
    arguments, weights = inputs(seed, torch.float32, "one view of several"), weights_for(loss, seed)

    def program(x, y, log_scale, bias, x_ids, y_ids, **weights):
        x, y = (normalize(z[:, 0], dim=1) for z in (x, y))
        return of(loss, x, y, log_scale.exp(), bias, x_ids, y_ids, **weights)

    got = trained(torch.compile(program, fullgraph=True), arguments, **weights)
    assert_equal(got, trained(program, arguments, **weights), 1e-5, f"seed {seed}")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_penalty_is_refused(loss, compiled, seed):
    """The gradient's own gradient is not there: it must not be taken for zero."""
    arguments = inputs(seed)

    def program(*arguments):
        return of(loss, *arguments)

    run = torch.compile(program, fullgraph=True, backend="aot_eager") if compiled else program

    def penalised():
        value = run(*arguments)
        (gradient,) = torch.autograd.grad(value, arguments[0], create_graph=True)
        (value + gradient.square().sum()).backward()

    with pytest.raises(RuntimeError, match=r"once_differentiable|double backward"):
        penalised()


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


@pytest.mark.parametrize("loss", ["mean", "sigmoid"])
@pytest.mark.parametrize("bad", [-0.5, torch.nan])
def test_a_wrong_weight_is_found_by_a_compiled_program(loss, bad, seed):
    arguments, weights = inputs(seed), weights_for(loss, seed)
    weights["y_weight"][3] = bad

    def program(*arguments, **weights):
        return of(loss, *arguments, **weights)

    with pytest.raises(ValueError, match=r"y_weight.*>= 0"):
        torch.compile(program, fullgraph=True, backend="aot_eager")(*arguments, **weights)


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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_group_goes_by_its_name(loss, compiled, seed, one_rank):
    arguments = inputs(seed)
    group = dist.new_group([0])  # not the default one

    def program(*arguments):
        return of(loss, *arguments, group=group)

    run = torch.compile(program, fullgraph=True, backend="aot_eager") if compiled else program
    want = trained(lambda *a: of(loss, *a), arguments)
    assert_equal(trained(run, arguments), want, 1e-13, f"seed {seed}")


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_backend_is_a_module_by_name(monkeypatch, seed):
    """Imported when it is first used, and told which gradients are wanted."""
    asked = []

    def infonce(*arguments, wanted, **options):
        asked.append(wanted)
        value, gradients = chunked.infonce(*arguments, wanted=wanted, **options)
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
