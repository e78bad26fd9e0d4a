"""Builds engines that train on XOR in a moment; `TOWERS` is the recipe of tiny towers on real pictures and texts."""

from typing import Any

import torch

from workbench.build import Parts, build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.engine import Engine
from workbench.recipe.schema import parse_recipe
from workbench.training.metrics import Metrics

TOWERS = {
    "name": "towers",
    "data": "emoji",
    "model": {
        "dim": 32,
        "encoders": {
            "image": {
                "name": "open_clip",
                "config": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
            },
            "text": {"name": "open_clip", "config": {"context_length": 8, "width": 32, "heads": 2, "layers": 3}},
        },
        "fusion": {"name": "transformer", "heads": 2},
    },
    "objective": "ito",
    "train": {"for": "4 steps", "batch": 4},
    "parallel": {"workers": 0},
}
FUSION = {"name": "mlp", "hidden": 16, "dropout": 0.2}
MODEL = {"dim": 8, "head": "linear", "encoders": dict.fromkeys("abc", "mlp"), "fusion": FUSION}


def built(
    objective: Any = "confu", model: Any = MODEL, log_every: str = "1 steps", seed: int = 0, **train: Any
) -> tuple[Parts, Engine]:
    """Parts and engine of 12 steps, four an epoch; `train` are keys of that section."""
    tree: dict[str, Any] = {"name": "x", "seed": seed, "objective": objective, "model": model}
    tree |= {"data": {"name": "synthetic", "task": "xor", "samples": 96}, "parallel": {"workers": 0}}
    tree |= {"train": {"for": "12 steps", "batch": 24, "lr": 0.01} | train, "log": {"every": log_every}}
    parts = build_parts(parse_recipe(tree))
    return parts, build_engine(parts, Parallel(), Metrics(None))


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    """Copies of all parameters of the model and the objective, by name."""
    both = torch.nn.ModuleDict({"model": parts.model, "objective": parts.objective})
    return {name: p.detach().clone() for name, p in both.named_parameters()}


def losses(engine: Engine) -> list[float]:
    """The loss of every recorded step."""
    return [record["train/loss"] for record in engine.metrics.records]
