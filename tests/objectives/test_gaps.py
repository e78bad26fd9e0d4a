"""Batches with gaps, for every objective: nobody has a pair, one sample is complete, a modality is not there at all.

A loss over no pairs is a mean of nothing. It has to be finite, with finite gradients and logs, and what is missing
must get no gradient.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from workbench.model import zipped
from workbench.recipe.component import names, validate
from workbench.types import Objective, Pool, Side, View

MODALITIES = ("a", "b", "c")
ROWS, VIEWS = 6, 2
GAPS = ("nothing", "one each", "one complete", "no a", "one pair", "random")


def valid(gap: str) -> dict[str, torch.Tensor]:
    """Say which views of which modality are there."""
    there = {m: torch.zeros(ROWS, VIEWS, dtype=torch.bool) for m in MODALITIES}
    for place, (m, x) in enumerate(there.items()):
        if gap in ("one each", "one complete"):
            x[place::3] = True
        if gap == "one complete":
            x[0] = True
        if gap == "no a":
            x[:] = m != "a"
        if gap == "one pair":
            x[3] = m != "c"
        if gap == "random":
            x[:] = torch.rand(x.shape) < 0.4
    return there


def build(name: str) -> Objective:
    block: dict[str, object] = {"name": name}
    if name == "terms":
        ways: list[dict[str, object]] = [{}, {"loss": "sigmoid"}, {"positives": "logsum"}, {"positives": "mean"}]
        block["terms"] = [{"between": ["a", "b"], **way} for way in ways] + [{"between": ["+a", "b"]}]
    modalities = ("a", "b") if name == "ito" else MODALITIES
    return validate("objective", block).build(modalities)  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", names("objective"))
def test_a_batch_with_gaps_is_finite(name: str, gap: str) -> None:
    seed = torch.seed()
    objective, there = build(name), valid(gap)
    views = {}
    for side in map(Side.parse, objective.sides(3)):
        _, present = zipped([there[m] for m in side.members])
        exists = torch.stack(present).all(0) if side.fused else there[side.members[0]]
        views[side] = View(F.normalize(torch.randn(*exists.shape, 8), dim=-1).requires_grad_(), exists)
    loss = objective(views, Pool(views, torch.arange(ROWS), 0, None, step=3))
    loss.total.backward()
    assert loss.total.isfinite(), seed
    for key, value in loss.logs.items():
        assert torch.as_tensor(value).isfinite().all(), (key, seed)
    for parameter in objective.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), seed
    for side, view in views.items():
        gradient = view.z.grad
        if gradient is None:
            continue
        assert gradient.isfinite().all(), (side, seed)
        if not objective.fuses_partly:
            assert not gradient[~view.valid].any(), (side, seed)
