"""The MLP encoder against the formula it stands for, written in numpy float64."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from workbench.encoders.mlp import MLP
from workbench.recipe.component import validate
from workbench.types import Modality


def numpy_mlp(encoder: MLP, x: np.ndarray) -> np.ndarray:
    linears = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in encoder.layers if hasattr(m, "weight")]
    h = x.reshape(len(x), -1)
    for i, (weight, bias) in enumerate(linears):
        h = h @ weight.T + bias
        if i < len(linears) - 1:
            h = h * 0.5 * (1 + erf(h / math.sqrt(2)))
    return h


@pytest.mark.parametrize("shape", [(), (5,), (3, 7)])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_formula(shape: tuple[int, ...], depth: int) -> None:
    encoder = MLP(Modality("vector", shape), 13, width=11, depth=depth).double()
    x = torch.randn(9, *shape, dtype=torch.float64)
    out = encoder(x)
    np.testing.assert_allclose(out.z.detach().numpy(), numpy_mlp(encoder, x.numpy()), rtol=1e-12, atol=1e-12)
    assert out.pooled is out.z
    assert out.tokens is None
    assert encoder.width == out.pooled.shape[1] == 13
    assert sum(isinstance(m, torch.nn.Linear) for m in encoder.layers) == depth


def test_dropout_is_of_hidden_units_in_training_only() -> None:
    encoder = MLP(Modality("vector", (6,)), 4, width=512, depth=2, dropout=0.5)
    x = torch.randn(1, 6)
    assert not torch.equal(encoder(x).z, encoder(x).z)
    encoder.eval()
    assert torch.equal(encoder(x).z, encoder(x).z)


def test_transform_makes_float32() -> None:
    transform = MLP(Modality("vector", (2,)), 3).transform(train=True)
    for raw in (np.array([1, 2]), [1.0, 2.0], torch.tensor([1.0, 2.0], dtype=torch.float64)):
        out = transform(raw)
        assert out.dtype == torch.float32
        assert out.tolist() == [1, 2]


def test_refuses_images() -> None:
    with pytest.raises(ValueError, match=r"vectors, not image.*open_clip"):
        MLP(Modality("image"), 8)


def test_recipe() -> None:
    encoder = validate("encoder", {"name": "mlp", "depth": 3, "width": 5}).build(Modality("vector", (2,)), 7)
    assert [m.out_features for m in encoder.layers if hasattr(m, "out_features")] == [5, 5, 7]
    with pytest.raises(ValueError, match="greater than 0"):
        validate("encoder", {"name": "mlp", "depth": 0})
