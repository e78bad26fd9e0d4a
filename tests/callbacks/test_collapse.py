"""A model that collapses is told of once, with the loss that it has and the one that knows nothing has."""

import math
from typing import Any

import pytest

from workbench.recipe.schema import parse_recipe
from workbench.runs.train import train


def recipe(objective: Any, **settings: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "data": {"name": "synthetic", "task": "redundancy", "samples": 64},
        "model": {"dim": 8, "encoders": dict.fromkeys("ab", "mlp")},
        "objective": objective,
        "train": {"for": "12 steps", "batch": 16, "weight_decay": 0, **settings},
        "parallel": {"workers": 0},
    }


def said_of(tree: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[float]]:
    records = train(parse_recipe(tree), None).records
    lines = [line for line in capsys.readouterr().err.splitlines() if "lower limit" in line]
    return lines, [record["train/scale"] for record in records if "train/scale" in record]


@pytest.mark.parametrize("objective", ["clip", "gram", "triangle", "siglip"])
def test_a_scale_that_falls_to_its_limit_is_said_once(objective: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree = recipe(objective, lr=3.0)
    if objective == "triangle":  # of three
        tree["model"]["encoders"]["c"] = "mlp"
    lines, scales = said_of(tree, capsys)
    assert min(scales) == pytest.approx(1.0)
    first = next(step for step, scale in enumerate(scales, 1) if scale < 1.0001)
    (line,) = lines
    assert line.startswith(f"step {first}: the scale has fallen to its lower limit (1)")
    assert f"ln 16 = {math.log(16):.4f}" in line


@pytest.mark.parametrize(
    ("scale", "lr"),
    [({}, 1e-3), ({"init": 1.0}, 3.0), ({"init": 0.7}, 3.0), ({"init": 14.0, "learn": False}, 3.0)],
)
def test_a_scale_that_does_not_fall_to_a_limit_is_no_news(
    scale: dict[str, Any], lr: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said_of(recipe({"name": "clip", "scale": scale}, lr=lr), capsys)[0] == []
