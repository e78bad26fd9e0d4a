"""`wb check --overfit`: a batch that is learnt, and for each thing that may be wrong a recipe in which it is."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from json_keys import assert_keys

from workbench.cli import cli
from workbench.recipe.schema import parse_recipe
from workbench.runs import overfit as module
from workbench.runs import reasons
from workbench.runs.overfit import Overfit, overfit

MINE = """
import torch
from torch import nn

from workbench.types import Encoder, Features


class Linear(Encoder):
    def __init__(self, modality, dim):
        super().__init__()
        self.width, self.layer = dim, nn.Linear(modality.shape[0], dim)

    def transform(self, train):
        return torch.as_tensor

    def forward(self, x, tokens=False):
        z = self.layer(x)
        return Features(z, z)


class Frozen(Linear):
    def __init__(self, modality, dim):
        super().__init__(modality, dim)
        self.requires_grad_(False)


class Blind(Linear):
    def forward(self, x, tokens=False):
        return super().forward(0 * x)


class Detached(Linear):
    def forward(self, x, tokens=False):
        z = self.layer(x).detach()
        return Features(z, z)


class Overflowing(Linear):
    def forward(self, x, tokens=False):
        return super().forward(x * 1e38 * 1e38)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(5)
    for name, same in (("rows", False), ("same", True)):
        a, b = rng.normal(size=(2, 20, 6)).round(3)
        a[1 if same else 20 :] = a[0]
        lines = [json.dumps({"a": x.tolist(), "b": y.tolist()}) for x, y in zip(a, b, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "STEPS", 25)
    monkeypatch.setattr(reasons, "USUAL", (1e-2,))
    return tmp_path


def tree(**changes: Any) -> dict[str, Any]:
    fields = {name: {"kind": "vector"} for name in "ab"}
    found: dict[str, Any] = {
        "name": "x",
        "data": {"name": "json", "path": "rows.jsonl", "fields": fields},
        "model": {"dim": 24, "encoders": dict.fromkeys("ab", "mine.py:Linear")},
        "objective": "clip",
        "train": {"for": "9 epochs", "batch": 16, "lr": 0.02},
    }
    return {
        key: value | changes.get(key, {}) if isinstance(value, dict) else changes.get(key, value)
        for key, value in found.items()
    }


def learn(**changes: Any) -> Overfit:
    return overfit(parse_recipe(tree(**changes)))


def encoders(**named: str) -> dict[str, Any]:
    return {"encoders": dict.fromkeys("ab", "mine.py:Linear") | {name: f"mine.py:{x}" for name, x in named.items()}}


@pytest.mark.slow
def test_a_batch_is_learnt_beside_chance_and_floor() -> None:
    found = learn()
    (term, total) = found.terms
    assert found.falls
    assert (term.name, total.name) == ("a~b", "total")
    assert term.chance == total.chance == pytest.approx(math.log(16))
    assert total.floor == pytest.approx(0, abs=1e-9)
    assert total.last < 0.3 * math.log(16) < total.first
    assert (found.rows, found.of_rows, found.reasons, found.tried) == (16, 16, [], {})


@pytest.mark.slow
def test_a_rate_by_which_the_loss_is_no_number_is_named() -> None:
    found = learn(train={"lr": 1e30})
    best = min(found.tried, key=lambda lr: found.tried[lr])
    assert found.tried[1e30] == math.inf
    assert found.reasons[0].startswith("learning rate too high: 1e+30. The loss is soon no number by it")
    assert found.reasons[0].endswith(f"set train.lr={best:g}")
    assert best < 1


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-6, 50.0])
def test_a_wrong_learning_rate_is_told_from_the_right_one(rate: float) -> None:
    found = learn(train={"lr": rate})
    assert not found.falls
    assert found.reasons[0].startswith(f"learning rate too {'low' if rate < 1 else 'high'}: {rate:g}. After as many")
    best = min(found.tried, key=lambda lr: found.tried[lr])
    assert found.reasons[0].endswith(f"set train.lr={best:g}")
    assert 1e-3 < best < 5
    assert found.tried[best] < found.tried[rate]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"path": "same.jsonl"}}, "the data: all 16 vectors of 'a' are the same, so nothing"),
        (
            {"model": encoders(a="Blind", b="Frozen")},
            "constant embeddings: a has one vector for all samples from the start",
        ),
        ({"model": encoders(a="Detached", b="Detached")}, "no gradient reaches encoder 'a', though it is to learn"),
        ({"model": encoders(b="Overflowing")}, "the loss is nan before any update: the model overflows"),
        ({"objective": {"name": "clip", "scale": {"init": 0.2, "learn": False}}}, "temperature: at a scale of 0.2 no"),
    ],
    ids=["same", "constant", "detached", "overflow", "temperature"],
)
def test_what_is_wrong_is_the_first_reason(changes: dict[str, Any], said: str) -> None:
    found = learn(**changes)
    assert not found.falls
    assert found.reasons[0].startswith(said)
    assert not found.tried  # which no learning rate could change


@pytest.mark.slow
def test_repeated_items_raise_the_floor_and_the_command_says_so(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    for at in range(0, 16, 2):
        rows[at]["b"] = rows[at + 1]["b"]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:16])))
    (folder / "recipe.yaml").write_text(json.dumps(tree()))
    result = CliRunner().invoke(cli, ["check", "recipe.yaml", "--overfit"])
    assert result.exit_code == 0, result.output
    # pairs of equal items: the row of each is one of two, and so is its column
    assert f"{math.log(16):.3f}  {math.log(2):.3f}" in " ".join(result.stdout.split()).replace(" ", "  ")
    assert "16 of 16 vectors of 'b' are those of another sample, too" in result.stdout
    result = CliRunner().invoke(cli, ["check", "recipe.yaml", "--overfit", "--json", "--set", "train.lr=1e-7"])
    assert result.exit_code == 2
    found = json.loads(result.stdout)["recipe.yaml"]
    assert_keys("check --overfit", found)
    assert found["error"] == f"recipe.yaml: the loss of one batch does not fall: {found['overfit']['reasons'][0]}"
    assert found["overfit"]["terms"][-1]["floor"] == pytest.approx(math.log(2))
