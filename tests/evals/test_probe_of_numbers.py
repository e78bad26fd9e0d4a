"""A probe of a label that is a number: ridge regression, against the normal equations and scipy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from workbench.evals._readouts import STRENGTHS, ANumber
from workbench.evals.probe import Probe
from workbench.training.metrics import Criterion
from workbench.types import Context, Items, Side, Split, View

SPLITS = ("train", "validation", "test")
Rows = tuple[np.ndarray, np.ndarray]


def run(splits: dict[str, Rows], **options: Any) -> dict[str, float]:
    """Probe vectors that are their own embeddings."""
    side = Side(("x",))

    def embed(inputs: Any, sides: Any) -> dict[Side, View]:
        return {side: View(torch.stack(list(inputs["x"]))[:, None], torch.ones(len(inputs["x"]), 1).bool())}

    found = {
        name: Split({"x": Items(torch.as_tensor(x), torch.arange(len(x)), {"year": torch.as_tensor(y)})})
        for name, (x, y) in splits.items()
    }
    data: Any = SimpleNamespace(split=found.__getitem__)
    objective: Any = SimpleNamespace(all_sides=[side])
    probe = Probe(label="year", on=("x",), **options)
    got = dict(probe.run(Context(embed, objective, data, batch=8, seed=0)))
    assert set(got) <= set(probe.names(objective))
    return got


def years(rng: np.random.Generator, n: int, noise: float) -> Rows:
    """Years, some of them unknown, as a noisy linear function of one direction among many."""
    y = rng.normal(1990, 8, n)
    x = rng.normal(size=(n, 12))
    x[:, 3] = (y - 1990) / 8 + noise * rng.normal(size=n)
    return x, np.where(rng.random(n) < 0.1, np.nan, y)


@pytest.mark.parametrize("noise", [0.2, 3.0])
def test_ridge_by_the_normal_equations(noise: float) -> None:
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    splits = {name: years(rng, 61, noise) for name in SPLITS}
    (x, y), (x_val, y_val), (x_test, y_test) = ((x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in splits.values())

    def fitted(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
        mean, std = x.mean(0), x.std(0)
        z, t = (x - mean) / std, (y - y.mean()) / y.std()
        w = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ t)
        return lambda new: y.mean() + y.std() * ((new - mean) / std) @ w

    strength = min(STRENGTHS["linear"], key=lambda s: np.square(fitted(x, y, s)(x_val) - y_val).mean())
    said = fitted(np.concatenate([x, x_val]), np.concatenate([y, y_val]), strength)(x_test)
    variance = np.square(y_test - y_test.mean()).mean()
    got = run(splits)
    assert got.pop("unlabelled", 0) == np.isnan(splits["test"][1]).sum(), seed
    assert got == pytest.approx(
        {
            "always_r2": 1 - np.square(y_test - y.mean()).mean() / variance,
            "always_mae": np.abs(y_test - np.median(y)).mean(),
            "x/r2": 1 - np.square(y_test - said).mean() / variance,
            "x/mae": np.abs(y_test - said).mean(),
            "x/spearman": spearmanr(said, y_test).statistic,
        },
        rel=1e-6,
    ), seed


@pytest.mark.slow
def test_an_mlp_reads_what_is_no_line() -> None:
    rng = np.random.default_rng(3)

    def rows(n: int) -> Rows:
        x = rng.uniform(-2, 2, (n, 2))
        return x, 1e6 + 1e4 * x[:, 0] * x[:, 1]

    splits = {name: rows(300) for name in SPLITS}
    assert run(splits)["x/r2"] < 0.1
    assert run(splits, kind="mlp")["x/r2"] > 0.9


def test_ranks_of_ties_and_of_one_number() -> None:
    rate = ANumber().rate
    found, labels = np.array([1.0, 1, 2, 5, 5, 5]), np.array([3.0, 2, 2, 9, 8, 9])
    assert rate(found, labels)[2] == pytest.approx(spearmanr(found, labels).statistic)
    assert rate(np.full(6, 3.0), labels)[2] == 0
    assert rate(labels, np.full(6, 3.0))[0] == 0  # nothing to explain, and not said exactly
    assert rate(np.full(6, 3.0), np.full(6, 3.0))[0] == 1


def test_refusals() -> None:
    rng = np.random.default_rng(0)
    splits = {name: years(rng, 20, 1.0) for name in SPLITS}
    with pytest.raises(ValueError, match="shots are samples of one class, and 'year' is a number of each"):
        run(splits, shots=3)
    with pytest.raises(ValueError, match="label 'year' of split 'train' has one number, two are needed"):
        run({**splits, "train": (splits["train"][0], np.full(20, 7.0))})
    with pytest.raises(ValueError, match="no item of split 'test' has a label of 'year': all are missing"):
        run({**splits, "test": (splits["test"][0], np.full(20, np.nan))})


def test_less_error_is_better() -> None:
    assert Criterion.parse("probe/x/mae").less
    assert not Criterion.parse("probe/x/r2").less
    assert not Criterion.parse("probe/x/spearman").less
