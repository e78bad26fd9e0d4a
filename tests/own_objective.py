"""A recipe whose objective is a class `Mine` of the user's own, in a file or a module."""

from pathlib import Path
from typing import Any

from workbench.recipe.schema import Recipe, parse_recipe


def recipe_with(code: Path | str, steps: int) -> Recipe:
    tree: dict[str, Any] = {
        "name": "x",
        "data": {"name": "synthetic", "task": "redundancy", "samples": 64},
        "model": {"dim": 8, "encoders": dict.fromkeys("ab", "mlp")},
        "objective": f"{code}:Mine",
        "train": {"for": f"{steps} steps", "batch": 16},
        "parallel": {"workers": 0},
        "log": {"tensorboard": False},
    }
    return parse_recipe(tree)
