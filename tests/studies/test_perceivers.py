"""The ceiling of imperfect perception against loops, the exact floor, and the optimum of a noisy channel."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from synthetic.modsum import ModSum
from synthetic.theory.joint import Joint
from synthetic.theory.optima import infonce_optimum, symile_optimum
from workbench.evals.held_out_loss import rename
from workbench.objectives.clip import CLIP
from workbench.objectives.confu import ConFu
from workbench.objectives.siglip import SigLIP
from workbench.objectives.symile import Symile
from workbench.studies.perceivers import calibrate, ceiling_of, infonce, symile

NAMES = ("x", "y", "z")
SIZE = 4
LAW = rename(ModSum(size=SIZE), NAMES)


def draw(rows: int, seed: int) -> dict[str, torch.Tensor]:
    x, y = torch.randint(SIZE, (2, rows), generator=torch.Generator().manual_seed(seed))
    return {"x": x, "y": y, "z": (x + y) % SIZE}


def sharp(codes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {m: torch.nn.functional.one_hot(c, SIZE).double() for m, c in codes.items()}


def noisy(codes: dict[str, torch.Tensor], error: float, seed: int) -> dict[str, torch.Tensor]:
    """Mistake each symbol for another one with a probability, and give the posterior of what was seen."""
    found, random = {}, torch.Generator().manual_seed(seed)
    for m, c in codes.items():
        wrong = torch.rand(len(c), generator=random) < error
        seen = torch.where(wrong, (c + torch.randint(1, SIZE, c.shape, generator=random)) % SIZE, c)
        other = torch.full((len(c), SIZE), error / (SIZE - 1), dtype=torch.float64)
        found[m] = other.scatter(1, seen[:, None], 1 - error)
    return found


def noisy_law(error: float) -> Joint:
    """Enumerate what is seen of the three symbols through that channel."""
    cells = np.array([*product(range(SIZE), repeat=5)]).T  # x, y, and what is seen of x, y, z
    x, y, *seen = cells
    p = np.full(cells.shape[1], SIZE**-2.0)
    for code, other in zip((x, y, (x + y) % SIZE), seen, strict=True):
        p = p * np.where(code == other, 1 - error, error / (SIZE - 1))
    return Joint.merge(dict.fromkeys(NAMES, SIZE), dict(zip(NAMES, seen, strict=True)), p)


def test_the_critic_is_the_density_ratio_written_as_loops() -> None:
    rows = 6
    told = {m: p.softmax(1) for m, p in zip(NAMES, torch.randn(3, rows, SIZE, dtype=torch.float64), strict=True)}

    def ratio(i: int, j: int, k: int) -> float:
        pairs = product(range(SIZE), repeat=2)
        return sum(SIZE * (told["x"][i, a] * told["y"][j, b] * told["z"][k, (a + b) % SIZE]).item() for a, b in pairs)

    matrix = [[ratio(i, i, k) for k in range(rows)] for i in range(rows)]
    across = [math.log(sum(matrix[i])) - math.log(matrix[i][i]) for i in range(rows)]
    down = [math.log(sum(row[k] for row in matrix)) - math.log(matrix[k][k]) for k in range(rows)]
    expected = (sum(across) + sum(down)) / (2 * rows)
    assert infonce(LAW, told, ["x", "y"], ["z"], torch.arange(rows)).item() == pytest.approx(expected)
    assert infonce(LAW, told, ["x"], ["z"], torch.arange(rows)).item() == pytest.approx(math.log(rows))

    shuffle, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    expected = 0.0
    for anchor in range(3):
        first, second = (torch.randperm(rows, generator=again).tolist() for _ in range(2))
        for i in range(rows):
            triples = [(i, i) if c == i else (first[c], second[c]) for c in range(rows)]
            values = [ratio(*((*pair[:anchor], i, *pair[anchor:]))) for pair in triples]
            expected += (math.log(sum(values)) - math.log(values[i])) / (3 * rows)
    assert symile(LAW, told, torch.arange(rows), shuffle).item() == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.0, 0.2])
def test_the_ceiling_is_the_exact_optimum_of_what_is_seen(error: float) -> None:
    """Perfect posteriors give the task's floor; those of a channel, the optimum of the distribution that it leaves."""
    batch, seed = 16, int(torch.randint(2**31, ()))
    codes = draw(batch * 100, seed)
    posteriors = noisy(codes, error, seed) if error else sharp(codes)
    law = noisy_law(error) if error else LAW
    batches = list(torch.arange(len(codes["x"])).split(batch))
    pairs = [(("x",), ("y",)), (("x",), ("z",)), (("y",), ("z",))]
    fused = [(("x", "y"), ("z",)), (("x", "z"), ("y",)), (("y", "z"), ("x",))]
    exact = sum(0.5 * infonce_optimum(law, a, b, batch).value for a, b in pairs + fused)
    found = ceiling_of(ConFu(NAMES), LAW, posteriors, batches)
    assert abs(found.loss - exact) < 5 * found.loss_se, seed
    found = ceiling_of(Symile(NAMES), LAW, posteriors, batches)
    # shuffles are no independent draws: see symile_optimum
    assert abs(found.loss - symile_optimum(law, batch).value) < 5 * found.loss_se + 2e-3, seed
    blind = ceiling_of(CLIP(NAMES), LAW, posteriors, batches)
    assert blind.loss == pytest.approx(3 * math.log(batch))
    assert blind.loss_se == pytest.approx(0, abs=1e-9)


def test_calibration_finds_the_temperature() -> None:
    told = torch.randn(4000, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)
    symbols = torch.multinomial(told, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    found = calibrate(4 * told.log(), symbols)
    assert (found - told).abs().max() < 0.05
    assert found.sum(1).allclose(torch.ones(4000, dtype=torch.float64))


def test_an_objective_of_unknown_ceiling_is_refused() -> None:
    posteriors, batches = sharp(draw(8, 0)), [torch.arange(4), torch.arange(4, 8)]
    for objective in (SigLIP(NAMES), Symile(NAMES, negatives="n_squared")):
        with pytest.raises(ValueError, match="no ceiling is known but of Symile and of sums of InfoNCE"):
            ceiling_of(objective, LAW, posteriors, batches)
