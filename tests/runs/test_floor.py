"""The least loss of a batch against a numerical minimum over all critics, and chance against its closed form."""

import math
import random

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from kernels import reference
from workbench.objectives.clip import CLIP
from workbench.runs.floor import Rows, bounds_of, infonce_floor, scale_floor
from workbench.terms import Scale, Term, Terms
from workbench.types import Batch, Side, View


def minimum(x: Rows, y: Rows, loss: str = "infonce") -> float:
    """Minimise over a free table of logits, a cell for each pair of classes: rows of the table pick their columns."""
    a, b = (torch.from_numpy(np.unique(side.classes, return_inverse=True)[1]) for side in (x, y))
    shape = int(a.max()) + 1, int(b.max()) + 1
    ids, right = (torch.from_numpy(x.ids), torch.from_numpy(y.ids)), torch.eye(shape[1], dtype=torch.float64)[b]

    def value(cells: np.ndarray) -> tuple[float, np.ndarray]:
        table = torch.from_numpy(cells).view(shape).requires_grad_()
        if loss == "infonce":
            found = reference.multi_positive_infonce(table[a], right, 1.0, *ids)
        else:
            found = reference.multi_positive_sigmoid(table[a], right, 1.0, 0.0, *ids)
        found.backward()
        assert table.grad is not None
        return float(found.detach()), table.grad.flatten().numpy()

    return float(minimize(value, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B").fun)


def drawn(n: int, kinds: int, ids: np.ndarray) -> Rows:
    return Rows(np.random.default_rng(random.randrange(2**31)).integers(kinds, size=n), ids)


@pytest.mark.parametrize("kinds", [(3, 5), (1, 7), (12, 4)], ids=str)
def test_the_floor_is_the_least_loss_of_any_critic(kinds: tuple[int, int]) -> None:
    ids = np.arange(13)
    x, y = (drawn(13, kind, ids) for kind in kinds)
    assert infonce_floor(x, y) == pytest.approx(minimum(x, y), abs=2e-3)
    # ids that several samples have: two each, of whatever classes
    ids = np.arange(12) // 2
    x, y = (Rows(side.classes[:12], ids) for side in (x, y))
    assert infonce_floor(x, y) == pytest.approx(minimum(x, y), abs=2e-3)


def test_the_floor_of_a_sigmoid_is_that_of_the_best_table() -> None:
    ids = np.array([0, 0, 1, 2, 3, 4, 5, 5])
    x, y = drawn(8, 4, ids), drawn(8, 3, ids)
    classes = {"a": torch.from_numpy(x.classes)[:, None], "b": torch.from_numpy(y.classes)[:, None]}
    inputs = {name: found[..., None].float() for name, found in classes.items()}
    batch = Batch(inputs, {name: torch.ones(8, 1, dtype=torch.bool) for name in inputs}, torch.from_numpy(ids))
    objective = Terms(("a", "b"), [Term(between=("a", "b"), loss="sigmoid")], Scale())
    found = bounds_of(objective, views(batch), batch)["a~b"]
    assert found.floor == pytest.approx(minimum(x, y, "sigmoid"), abs=2e-3)
    p = (ids[:, None] == ids).mean()
    assert found.chance == pytest.approx(8 * -(p * math.log(p) + (1 - p) * math.log(1 - p)))


def views(batch: Batch) -> dict[Side, View]:
    return {Side((m,)): View(torch.rand(*x.shape[:2], 3), batch.valid[m]) for m, x in batch.inputs.items()}


def test_chance_is_ln_of_the_samples_that_have_both() -> None:
    valid = {"a": torch.ones(9, 1, dtype=torch.bool), "b": (torch.arange(9) < 7)[:, None]}
    batch = Batch({m: torch.arange(9.0)[:, None, None] for m in valid}, valid, torch.arange(9))
    found = bounds_of(CLIP(("a", "b")), views(batch), batch)
    assert found["a~b"] == found["total"]
    assert found["total"] == (pytest.approx(math.log(7)), pytest.approx(0, abs=1e-12))
    batch.inputs["b"].fill_(1)
    assert bounds_of(CLIP(("a", "b")), views(batch), batch)["a~b"].floor == pytest.approx(math.log(7))


def test_views_of_a_sample_are_each_others_answers() -> None:
    """NT-Xent of two views: chance ln(1 + 2 (n - 1)); where two samples are the same its floor is not known."""
    term = Term(between=("+a", "+a"), positives="each")
    valid = {"a": torch.ones(5, 2, dtype=torch.bool)}
    batch = Batch({"a": torch.arange(10.0).view(5, 2, 1)}, valid, torch.arange(5))
    side = {Side.parse("+a"): View(torch.rand(5, 2, 3), valid["a"])}
    objective = Terms(("a",), [term], Scale())
    assert bounds_of(objective, side, batch)["total"] == (pytest.approx(math.log(9)), 0)
    batch.inputs["a"][1] = batch.inputs["a"][0]
    assert bounds_of(objective, side, batch)["total"].floor is None


def test_no_unit_rows_go_below_what_a_scale_allows() -> None:
    n, scale = 6, random.uniform(0.5, 5)
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n
    rows = torch.nn.functional.normalize(simplex, dim=1)
    ids = torch.arange(n)
    assert float(reference.multi_positive_infonce(rows, rows, scale, ids, ids)) == pytest.approx(
        scale_floor(scale, n, cosine=True)
    )
    assert scale_floor(scale, n, cosine=False) < scale_floor(scale, n, cosine=True)
