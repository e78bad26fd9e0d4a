"""Derivatives that the operators do not have are refused, never taken for 0: forward mode, torch.func, second ones.

torch differentiates a custom operator in reverse, once, and says nothing of the rest. The reference takes all of them.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import kernels

M, N, K, D = 6, 5, 4, 3
IDS = torch.arange(M) // 2

LOSSES = ("mean", "logsum", "each", "sigmoid", "row_lse", "col_lse", "khatri_rao")
INPUTS = dict.fromkeys(LOSSES, ("x", "y", "scale")) | {
    "sigmoid": ("x", "y", "scale", "bias"),
    "khatri_rao": ("x", "y", "z", "scale"),
}
EACH_INPUT = [(loss, name) for loss, names in INPUTS.items() for name in names]


@pytest.fixture
def inputs(seed) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"x": (M, D), "y": (N, D), "z": (K, D), "scale": (), "bias": ()}
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}


def evaluate(loss: str, v: dict[str, Tensor], **options) -> Tensor:
    """Computes a scalar of any loss, not linear in contrast_lse's vectors."""
    if loss == "khatri_rao":
        return kernels.khatri_rao_lse(v["x"], v["y"], v["z"], v["scale"], **options).square().sum()
    if loss.endswith("lse"):
        return kernels.contrast_lse(v["x"], v["y"], v["scale"], **options)[loss == "col_lse"].square().sum()
    if loss == "sigmoid":
        return kernels.multi_positive_sigmoid(v["x"], v["y"], v["scale"], v["bias"], IDS, IDS[:N], **options)
    return kernels.multi_positive_infonce(v["x"], v["y"], v["scale"], IDS, IDS[:N], positives=loss, **options)


def of_one_input(loss: str, name: str, inputs: dict[str, Tensor], **options):
    """Returns the loss as a function of one of its inputs."""
    return lambda value: evaluate(loss, inputs | {name: value}, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "name"), EACH_INPUT)
@pytest.mark.parametrize("leaf", [False, True])
def test_a_tangent_is_refused(loss, name, leaf, inputs):
    """Where an input wants a gradient torch would raise an error of its own; where none does it would return 0."""
    value, tangent = inputs[name].requires_grad_(leaf), torch.ones_like(inputs[name])
    function = of_one_input(loss, name, inputs)
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=rf"^{name} carries a tangent.*backward\(\).*backend='reference'"),
    ):
        function(forward_ad.make_dual(value, tangent))
    with pytest.raises(NotImplementedError, match=f"^{name} carries a tangent"):
        torch.func.jvp(function, (value,), (tangent,))


@pytest.mark.parametrize("side", ["x_weight", "y_weight"])
@pytest.mark.parametrize("loss", ["mean", "sigmoid"])
def test_a_tangent_of_weights_is_refused(loss, side, inputs):
    weight = torch.ones(M if side == "x_weight" else N, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match=f"^{side} carries a tangent"):
        torch.func.jvp(lambda w: evaluate(loss, inputs, **{side: w}), (weight,), (weight,))


@pytest.mark.parametrize("loss", ["row_lse", "col_lse", "khatri_rao"])
def test_a_tangent_of_the_upstream_gradient_is_refused(loss, inputs):
    """The backward of a vector is an operator, too, and would drop the tangent of what it multiplies with."""
    x = inputs["x"].requires_grad_()
    with forward_ad.dual_level():
        factor = forward_ad.make_dual(*torch.ones(2, dtype=torch.float64))
        value = evaluate(loss, inputs) * factor
        with pytest.raises(NotImplementedError, match=r"upstream gradient.*carries a tangent"):
            torch.autograd.grad(value, x)


@pytest.mark.parametrize("loss", ["mean", "logsum", "each", "sigmoid"])
def test_a_loss_multiplies_a_tangent_of_its_upstream_gradient(loss, inputs):
    """The gradient of factor * loss is linear in the factor: its tangent is the gradient of the loss itself."""
    x = inputs["x"].requires_grad_()
    (plain,) = torch.autograd.grad(evaluate(loss, inputs), x)
    with forward_ad.dual_level():
        factor = forward_ad.make_dual(*torch.ones(2, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(evaluate(loss, inputs) * factor, x)
        torch.testing.assert_close(forward_ad.unpack_dual(gradient).tangent, plain)


@pytest.mark.slow
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.hessian, torch.func.vjp])
@pytest.mark.parametrize(("loss", "name"), EACH_INPUT)
def test_transforms_of_torch_func_are_refused(loss, name, transform, inputs):
    function, value = of_one_input(loss, name, inputs), inputs[name]
    with pytest.raises(NotImplementedError, match=r"torch\.func .*cannot see.*backend='reference'"):
        torch.func.vjp(function, value) if transform is torch.func.vjp else transform(function)(value)


@pytest.mark.parametrize("inner", [torch.func.jacfwd, torch.func.grad])
@pytest.mark.parametrize("loss", LOSSES)
def test_nested_transforms_are_refused(loss, inner, inputs):
    batch = torch.stack([inputs["x"], 2 * inputs["x"]])
    function = of_one_input(loss, "x", inputs)
    message = "x carries a tangent" if inner is torch.func.jacfwd else "torch.func"
    with pytest.raises(NotImplementedError, match=message):
        torch.vmap(inner(function))(batch)
    with pytest.raises(NotImplementedError, match=message):
        inner(lambda batch: torch.vmap(function)(batch).sum())(batch)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="x carries a tangent"):
        torch.vmap(function)(forward_ad.make_dual(batch, batch))


@pytest.mark.slow
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_compiled_program_refuses_them(loss, fullgraph, inputs):
    function = of_one_input(loss, "x", inputs)

    def tangent(x: Tensor) -> Tensor:
        return torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]

    error = Exception if fullgraph else NotImplementedError  # the compiler's own, about what it cannot trace
    with pytest.raises(error, match=r"carries a tangent|Unsupported|skipped"):
        torch.compile(tangent, backend="eager", fullgraph=fullgraph)(inputs["x"])
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loss", LOSSES)
def test_vmap_is_a_loop(loss, inputs):
    """Each slice has its value and its gradient, though under vmap it says that it requires none."""
    batch = torch.stack([inputs["x"], 2 * inputs["x"]]).requires_grad_()
    function = of_one_input(loss, "x", inputs)
    values = torch.vmap(function)(batch)
    (gradient,) = torch.autograd.grad(values.sum(), batch)
    want = torch.stack([function(x) for x in batch])
    torch.testing.assert_close(values, want)
    torch.testing.assert_close(gradient, torch.autograd.grad(want.sum(), batch)[0])


@pytest.mark.parametrize(("loss", "name"), EACH_INPUT)
def test_a_gradient_may_be_asked_for_twice(loss, name, inputs):
    """Backward leaves what it multiplies as it is."""
    leaf = inputs[name].requires_grad_()
    value = evaluate(loss, inputs)
    (once,) = torch.autograd.grad(value, leaf, retain_graph=True)
    (again,) = torch.autograd.grad(value, leaf, retain_graph=True)
    assert torch.equal(once, again)


@pytest.mark.parametrize(("loss", "name"), EACH_INPUT)
def test_a_gradient_penalty_is_refused(loss, name, inputs):
    """It is refused in the input alone, too, where torch's once_differentiable would let the penalty vanish."""
    value = inputs[name].requires_grad_()
    loss_value = evaluate(loss, inputs)
    (gradient,) = torch.autograd.grad(loss_value, value, create_graph=True)
    penalised = loss_value + gradient.square().sum()
    with pytest.raises(RuntimeError, match=r"cannot be differentiated again.*backend='reference'"):
        torch.autograd.grad(penalised, value, retain_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        penalised.backward()


@pytest.mark.parametrize("loss", LOSSES)
def test_products_with_a_hessian_are_refused(loss, inputs):
    function, x = of_one_input(loss, "x", inputs), inputs["x"]
    for product in (torch.autograd.functional.hvp, torch.autograd.functional.vhp):
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            product(function, x, torch.ones_like(x))
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.functional.hessian(function, x)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_graph_of_the_gradient_changes_nothing_by_itself(loss, inputs):
    """create_graph=True is no error while nobody differentiates the gradient."""
    x = inputs["x"].requires_grad_()
    value = evaluate(loss, inputs) + x.pow(3).sum()
    (plain,) = torch.autograd.grad(value, x, retain_graph=True)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    assert torch.equal(gradient, plain)
    value.backward(create_graph=True)
    assert torch.equal(x.grad, plain)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "name"), EACH_INPUT)
def test_the_reference_takes_them_all(loss, name, inputs):
    """It has the derivative along a direction, forward and in reverse, and second ones that agree with differences."""
    function, value = of_one_input(loss, name, inputs, backend="reference"), inputs[name]
    direction = torch.ones_like(value)
    forward = torch.func.jvp(function, (value,), (direction,))[1]
    torch.testing.assert_close(forward, torch.func.grad(function)(value).sum())
    torch.testing.assert_close(forward, torch.autograd.grad(function(value.requires_grad_()), value)[0].sum())
    assert torch.autograd.gradgradcheck(function, value)
