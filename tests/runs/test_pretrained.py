"""A run that began from published weights is whole by itself: its checkpoint holds everything, the file may be gone."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file

import workbench
from workbench.engine import Callback, Engine, Logs
from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.cost import assemble
from workbench.runs.inference import evaluate_run
from workbench.runs.train import train

pytestmark = pytest.mark.slow

VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
TEXT = {"context_length": 8, "width": 16, "heads": 2, "layers": 1}


def recipe(steps: int, file: Path, **model: Any) -> Recipe:
    image = {"name": "open_clip", "config": VIT, "pretrained": str(file)}
    text = {"name": "open_clip", "config": TEXT, "pretrained": str(file)}
    return parse_recipe(
        {
            "name": "tiny",
            "data": "emoji",
            "model": {"dim": 16, "encoders": {"image": image, "text": text}, **model},
            "objective": "clip",
            "train": {"for": f"{steps} steps", "batch": 8},
            "eval": {"start": False, "every": "2 steps", "retrieval": {}},
            "checkpoint": {"every": "2 steps"},
            "parallel": {"workers": 0},
            "log": {"tensorboard": False},
        }
    )


class StopAfterTwo(Callback):
    def on_step(self, engine: Engine, logs: Logs) -> None:
        engine.stop_requested = engine.step == 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "published.pt"
    torch.save(open_clip.CustomTextCLIP(16, VIT, TEXT).state_dict(), path)
    return path


def test_the_published_file_is_needed_once(file: Path, tmp_path: Path) -> None:
    published = torch.load(file)
    train(recipe(4, file), tmp_path / "whole")
    train(recipe(4, file), tmp_path / "broken", callbacks=[StopAfterTwo()])
    first = workbench.load(tmp_path / "broken").model.encoders["text"].state_dict()
    moved = (first["tower.token_embedding.weight"] - published["text.token_embedding.weight"]).abs().max()
    assert 0 < moved < 0.01  # it began there
    file.unlink()
    assert workbench.load(tmp_path / "broken").encode_text(["a cat"]).shape == (1, 16)
    step, metrics = evaluate_run(tmp_path / "broken")
    assert step == 2
    assert metrics
    train(recipe(4, file), tmp_path / "broken")
    whole, broken = (
        load_file(tmp_path / run / "checkpoints" / "step-4" / "model.safetensors") for run in ("whole", "broken")
    )
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    for refuse in (assemble, lambda missing: train(missing, tmp_path / "another")):
        with pytest.raises(RecipeError, match=r"encoder 'open_clip': pretrained '.*published.pt' is neither"):
            refuse(recipe(2, file))


def test_nothing_is_read_when_a_recipe_is_checked_but_the_shapes(file: Path) -> None:
    assemble(recipe(1, file))
    with pytest.raises(RecipeError, match=r"the visual tower in .* does not fit this one: visual.proj is \[64, 16\]"):
        assemble(recipe(1, file, dim=24))


def test_no_step_at_all_leaves_a_run_that_loads(file: Path, tmp_path: Path) -> None:
    """How one evaluates published weights: they are saved as step 0."""
    outcome = train(recipe(0, file), tmp_path / "run")
    assert (outcome.step, outcome.finished) == (0, True)
    assert evaluate_run(tmp_path / "run")[0] == 0
    model = workbench.load(tmp_path / "run", 0)
    published = torch.load(file)
    assert torch.equal(model.model.encoders["image"].tower.proj, published["visual.proj"])
