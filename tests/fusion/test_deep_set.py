"""The deep set against its formula in numpy float64: one module, every subset, and what absence may not do."""

from itertools import combinations

import numpy as np
import pytest
import torch

from workbench.fusion.deep_set import DeepSet
from workbench.types import Features, Side

WIDTHS = {"audio": 5, "image": 7, "text": 3}
SUBSETS = [c for k in (1, 2, 3) for c in combinations(WIDTHS, k)]


def name(members: tuple[str, ...]) -> str:
    return str(Side(members, fused=True))


def features(n: int, dtype: torch.dtype = torch.float64) -> dict[str, Features]:
    return {m: Features(torch.randn(n, 4, dtype=dtype), torch.randn(n, w, dtype=dtype)) for m, w in WIDTHS.items()}


def fusion(**settings: float) -> DeepSet:
    return DeepSet([Side.parse(name(s)) for s in SUBSETS], WIDTHS, 6, hidden=11, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("members", SUBSETS)
def test_formula(members: tuple[str, ...]) -> None:
    module, inputs = fusion().double().eval(), features(13)
    weight, bias = (p.detach().numpy() for p in module.project.parameters())
    starts = dict(zip(WIDTHS, np.cumsum([0, *WIDTHS.values()]), strict=False))
    hidden = np.tile(bias, (13, 1))
    for i, m in enumerate(WIDTHS):
        if m in members:  # W_m h_m + b_m
            W, b = weight[:, starts[m] : starts[m] + WIDTHS[m]], weight[:, sum(WIDTHS.values()) + i]
            hidden = hidden + inputs[m].pooled.numpy() @ W.T + b
    out = tuple(p.detach().numpy() for p in module.readout[2].parameters())
    expected = np.maximum(hidden, 0) @ out[0].T + out[1]
    given = {m: inputs[m] for m in members}
    np.testing.assert_allclose(module(name(members), given).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_one_absent_member_is_the_subset_without_it_whatever_it_holds() -> None:
    module, inputs = fusion().eval(), features(6, torch.float32)
    present = {m: torch.rand(6) < 0.5 for m in WIDTHS} | {"text": torch.ones(6, dtype=torch.bool)}
    for m, rows in present.items():
        inputs[m].pooled[~rows] = torch.nan
    fused = module("audio+image+text", inputs, present)
    for i in range(6):
        there = tuple(m for m in WIDTHS if present[m][i])
        row = {m: Features(inputs[m].z[i : i + 1], inputs[m].pooled[i : i + 1]) for m in there}
        torch.testing.assert_close(fused[i : i + 1], module(name(there), row))


def test_every_weight_has_a_gradient_from_any_subset() -> None:
    module, inputs = fusion(), features(4, torch.float32)
    module("+text", {"text": inputs["text"]}).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_its_size_does_not_grow_with_the_number_of_sides() -> None:
    few = DeepSet([Side.parse("+text")], WIDTHS, 6, hidden=11)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (few, fusion())]
    assert sizes == [(15 + 3 + 1) * 11 + 12 * 6] * 2


def test_dropout_is_of_the_hidden_units() -> None:
    module = fusion(dropout=0.5)
    inputs = features(3, torch.float32)
    assert not torch.equal(module("audio+text", inputs), module("audio+text", inputs))
    module.eval()
    assert torch.equal(module("audio+text", inputs), module("audio+text", inputs))


def test_refuses_missing_members_by_name() -> None:
    with pytest.raises(ValueError, match=r"'image\+smell' fuses \['smell'\]"):
        DeepSet([Side.parse("image+smell")], WIDTHS, 6)
    with pytest.raises(ValueError, match=r"needs the features of \['text'\]"):
        fusion()("audio+text", {"audio": features(2)["audio"]})
