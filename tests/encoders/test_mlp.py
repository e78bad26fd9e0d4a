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
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        validate("encoder", {"name": "mlp", "depth": -1})


def test_standardises_by_the_training_split_as_numpy_does(in_float64: None) -> None:
    rows = (torch.randn(2_500, 3, 2) * torch.tensor([1e-2, 1e4]) + torch.tensor([1e3, -7.0])).float().double()
    encoder = MLP(Modality("vector", (3, 2), measured=True), 5, depth=2)
    assert encoder.needs_items
    encoder.measure(iter(rows))
    expected = (rows - rows.numpy().mean(0)) / rows.numpy().std(0)
    torch.testing.assert_close(encoder.standardise(rows), expected, rtol=1e-6, atol=1e-6)
    plain = MLP(Modality("vector", (3, 2)), 5, depth=2)
    plain.load_state_dict({n: x for n, x in encoder.state_dict().items() if not n.startswith("standardise")})
    torch.testing.assert_close(encoder(rows).z, plain(expected).z, rtol=1e-6, atol=1e-6)


def test_a_number_that_never_varies_stays_finite() -> None:
    encoder = MLP(Modality("vector", (2,)), 3, standardise=True)
    encoder.measure([[0.1, float(i)] for i in range(3_001)])
    assert encoder.standardise(torch.tensor([[0.1, 1500.0]])).tolist() == [[0, 0]]
    assert encoder.standardise(torch.tensor([[0.3, 1500.0]]))[0, 0] == pytest.approx(0.2, abs=1e-6)
    with pytest.raises(ValueError, match=r"no item.*set standardise to false"):
        encoder.measure([])


def test_what_a_checkpoint_has_depends_on_the_data_unless_it_is_said() -> None:
    def has(measured: bool, standardise: bool | None) -> bool:
        encoder = MLP(Modality("vector", (2,), measured=measured), 3, standardise=standardise)
        assert encoder.needs_items == ("standardise.mean" in encoder.state_dict())
        return encoder.needs_items

    assert [has(m, s) for m in (False, True) for s in (None, False, True)] == [False, False, True, True, False, True]


def test_noise_is_added_behind_the_standardisation_and_in_training_only() -> None:
    encoder = MLP(Modality("vector", (2,)), 2, standardise=True, noise=0.5)
    encoder.measure([[float(i) * 100, 7.0] for i in range(5)])
    torch.manual_seed(3)
    x = torch.stack([encoder.transform(train=True)([200.0, 7.0]) for _ in range(4_000)])
    assert x.shape == (4_000, 2, 2)
    assert x[:, 1].std(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    torch.testing.assert_close(encoder(x).z, encoder.layers(x[:, 1]))  # the item is the mean
    assert encoder.transform(train=False)([200.0, 7.0]).tolist() == [200, 7]
    torch.manual_seed(3)
    assert torch.equal(encoder.transform(train=True)([200.0, 7.0]), x[0])
