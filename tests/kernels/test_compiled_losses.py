"""A compiled program computes what an eager one does: losses, weights and groups under torch.compile.

Trap: an operator whose register_fake is wrong fails only here, and often far from the operator.
"""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.distributed as dist
from loss_arguments import assert_equal
from op_programs import LOSSES, VIEWS, D, M, N, evaluate, inputs, train, weights_for
from torch.nn.functional import normalize

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch._dynamo.reset()


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
        return evaluate(
            loss, x, y, log_scale.exp(), bias, x_ids, y_ids, x_offset=3, backend=backend, **itself, **weights
        )

    eager = train(program, arguments, **weights)
    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    got = train(compiled, arguments, **weights)
    assert_equal(got, eager, 0.0, f"seed {seed}")
    wide = [v.detach().double().requires_grad_() for v in arguments[:4]]
    want = train(lambda *a, **w: program(*a, backend="reference", **w), [*wide, *arguments[4:]], **weights)
    # a gradient is rounded, multiplied and rounded; that of an expanded row is a sum of such in its own dtype
    assert_equal(eager, want, 8 * torch.finfo(dtype).eps * (M if form == "expanded" else 1), f"seed {seed}")


@pytest.mark.parametrize("loss", ["mean", "sigmoid", "contrast_lse"])
def test_compiled_under_autocast(loss, seed):
    """Towers give bfloat16 then, while the losses' own products stay in float32, forward and backward."""
    arguments = inputs(seed, torch.float32)
    tower = torch.randn(D, 8).requires_grad_()

    def program(x, y, log_scale, bias, x_ids, y_ids):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x, y = (normalize(z @ tower, dim=1) for z in (x, y))
            return evaluate(loss, x, y, log_scale.exp(), bias, x_ids, y_ids)

    got = train(torch.compile(program, fullgraph=True, backend="aot_eager"), arguments)
    assert_equal(got, train(program, arguments), 0.0, f"seed {seed}")


@pytest.mark.parametrize("loss", ["each", "sigmoid", "contrast_lse"])
def test_compiled_once_for_batches_of_any_size(loss, seed):
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    def program(x, y, log_scale, bias, x_ids, y_ids):
        return evaluate(loss, x, y, log_scale.exp(), bias, x_ids, y_ids)

    compiled = torch.compile(program, fullgraph=True, backend=count, dynamic=True)
    for rows in (6, 9, 12):  # no length that another dimension has: torch would take them for one
        x, y, t, b, x_ids, y_ids = inputs(seed, torch.float64)
        x, x_ids = x.detach()[:rows].requires_grad_(), x_ids[:rows]
        arguments = [x, y, t, b, x_ids, y_ids]
        assert_equal(train(compiled, arguments), train(program, arguments), 0.0, f"seed {seed}")
    assert len(graphs) == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_compiled_with_numbers_and_without_gradients(loss, seed):
    x, y, *_, x_ids, y_ids = inputs(seed)

    def program(x, y):
        return evaluate(loss, x, y, 7.0, -1.0, x_ids, y_ids)

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
        return evaluate(loss, x, y, log_scale.exp(), bias, x_ids, y_ids, **weights)

    got = train(torch.compile(program, fullgraph=True), arguments, **weights)
    assert_equal(got, train(program, arguments, **weights), 1e-5, f"seed {seed}")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_penalty_is_refused(loss, compiled, seed):
    """The gradient's own gradient is not there: it must not be taken for zero."""
    arguments = inputs(seed)

    def program(*arguments):
        return evaluate(loss, *arguments)

    run = torch.compile(program, fullgraph=True, backend="aot_eager") if compiled else program

    def penalised():
        value = run(*arguments)
        (gradient,) = torch.autograd.grad(value, arguments[0], create_graph=True)
        (value + gradient.square().sum()).backward()

    with pytest.raises(RuntimeError, match=r"once_differentiable|double backward"):
        penalised()


@pytest.mark.parametrize("loss", ["mean", "sigmoid"])
@pytest.mark.parametrize("bad", [-0.5, torch.nan])
def test_a_wrong_weight_is_found_by_a_compiled_program(loss, bad, seed):
    arguments, weights = inputs(seed), weights_for(loss, seed)
    weights["y_weight"][3] = bad

    def program(*arguments, **weights):
        return evaluate(loss, *arguments, **weights)

    with pytest.raises(ValueError, match=r"y_weight.*>= 0"):
        torch.compile(program, fullgraph=True, backend="aot_eager")(*arguments, **weights)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_group_goes_by_its_name(loss, compiled, seed, one_rank):
    arguments = inputs(seed)
    group = dist.new_group([0])  # not the default one

    def program(*arguments):
        return evaluate(loss, *arguments, group=group)

    run = torch.compile(program, fullgraph=True, backend="aot_eager") if compiled else program
    want = train(lambda *a: evaluate(loss, *a), arguments)
    assert_equal(train(run, arguments), want, 1e-13, f"seed {seed}")


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
