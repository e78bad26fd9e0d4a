"""Fusion is a training-time thing: what comes out of a checkpoint does not know that it was there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

import workbench
from workbench.build import build_parts
from workbench.cli import cli
from workbench.engine import Callback, Engine, Logs
from workbench.errors import RunError
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.evaluating import evaluate_source
from workbench.runs.train import train
from workbench.training import checkpoint, checkpoint_files

pytestmark = pytest.mark.slow

TREE = {
    "name": "tiny",
    "data": {"name": "emoji", "views": 2},
    "model": {
        "dim": 16,
        "encoders": {
            "image": {"name": "open_clip", "config": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}},
            "text": {"name": "open_clip", "config": {"context_length": 8, "width": 16, "heads": 2, "layers": 1}},
        },
        "fusion": {"name": "transformer", "layers": 1, "heads": 2},
    },
    "objective": "ito",
    "train": {"for": "2 steps", "batch": 4},
    "parallel": {"workers": 0},
    "log": {"tensorboard": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train(parse_recipe(TREE), path)
    return path


PICTURES = [Image.effect_noise((40, 50), sigma).convert("RGB") for sigma in (20, 90, 200)]
WORDS = ["a cat", "grinning face", ""]


def without_fusion(run: Path, folder: Path) -> Path:
    """The same run, its checkpoint saved without the fusion module's tensors."""
    copy = folder / "bare"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    parts = build_parts(Recipe.model_validate(TREE))
    parts.model.fusion = None
    path = checkpoint.save(
        copy / "checkpoints", parts.model, parts.objective, torch.optim.SGD([torch.zeros(1)]), checkpoint_files.State(2)
    )
    weights = load_file(run / "checkpoints" / "step-2" / "model.safetensors")
    assert any(name.startswith("model.fusion.") for name in weights)
    save_file({k: v for k, v in weights.items() if not k.startswith("model.fusion.")}, path / "model.safetensors")
    manifest = {p.name: checkpoint_files._facts(p) for p in path.iterdir() if p.name != "manifest.json"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_embeddings_with_and_without_the_fusion_module_are_bit_identical(run: Path, tmp_path: Path) -> None:
    whole, bare = workbench.load(run), workbench.load(without_fusion(run, tmp_path))
    parts = build_parts(parse_recipe(TREE))
    checkpoint.load(run / "checkpoints" / "step-2", parts.model, parts.objective)
    assert parts.model.fusion is not None
    assert whole.model.fusion is None
    pixels = torch.stack([whole.preprocess(p) for p in PICTURES])
    in_training_model = parts.model.eval()(
        {"image": pixels[:, None]}, {"image": torch.ones(3, 1, dtype=torch.bool)}, ["image"]
    )
    for model in (whole, bare):
        assert torch.equal(model.encode_image(PICTURES), in_training_model["image"].z[:, 0])
        assert torch.equal(model.encode_text(WORDS), whole.encode_text(WORDS))


def test_a_lambda_of_zero_builds_no_module_and_costs_nothing() -> None:
    plain = parse_recipe(TREE | {"objective": {"name": "ito", "lambda": 0}})
    assert build_parts(plain).model.fusion is None
    without = parse_recipe(
        TREE | {"objective": {"name": "ito", "lambda": 0}, "model": TREE["model"] | {"fusion": None}}
    )
    from workbench.runs.cost import cost

    assert cost(plain) == cost(without)
    assert cost(parse_recipe(TREE)).flops_per_sample > cost(plain).flops_per_sample


def test_load_gives_unit_rows_and_takes_pixels_that_are_already_normalised(run: Path) -> None:
    model = workbench.load(run)
    images, texts = model.encode_image(PICTURES), model.encode_text(WORDS)
    for z in (images, texts):
        assert z.shape == (3, 16)
        assert z.dtype == torch.float32
        assert torch.allclose(z.norm(dim=1), torch.ones(3), atol=1e-6)
    assert not model.model.training
    pixels = torch.stack([model.preprocess(p) for p in PICTURES])
    assert torch.equal(model.encode_image(pixels), images)
    assert model.tokenizer("a cat").shape == (8,)


def test_a_bare_string_is_not_a_list_of_strings(run: Path) -> None:
    with pytest.raises(ValueError, match=r"write \['a cat'\]"):
        workbench.load(run).encode_text("a cat")


def test_what_cannot_be_loaded_says_why(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run folder"):
        workbench.load(tmp_path)
    (tmp_path / "clip.pt").touch()
    with pytest.raises(RunError, match=r"is a file, .*model\.init=.*clip\.pt --set train\.for='0 steps'"):
        workbench.load(tmp_path / "clip.pt")
    with pytest.raises(RunError, match=r"no checkpoint '99' \(there are: last, .*2\)"):
        workbench.runs.inference.load(run, "99")
    with pytest.raises(RunError, match=r"names no eval\.best"):
        workbench.runs.inference.load(run, "best")


def test_image_text_training_resumes_bitwise_with_other_workers(tmp_path: Path) -> None:
    def tree(steps: int, workers: int) -> Recipe:
        train_ = {"for": f"{steps} steps", "batch": 8}
        return parse_recipe(
            TREE | {"train": train_, "parallel": {"workers": workers}, "checkpoint": {"every": "2 steps"}}
        )

    class StopAfterTwo(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            engine.stop_requested = engine.step == 2

    train(tree(4, 0), tmp_path / "whole")
    train(tree(4, 2), tmp_path / "broken", callbacks=[StopAfterTwo()])
    train(tree(4, 1), tmp_path / "broken")
    for file in ("model.safetensors", "optimizer.safetensors"):
        whole, broken = (tmp_path / run / "checkpoints" / "step-4" / file for run in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes()


def test_a_run_is_evaluated_on_other_data_and_by_class(run: Path, tmp_path: Path) -> None:
    """Its modalities keep their names, its recipe's data is not read, and reports lie in its folder."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    recipe = tmp_path / "other.yaml"
    recipe.write_text(yaml.safe_dump({**TREE, "eval": {"kinds": {"name": "zeroshot", "label": "group"}}}))
    result = CliRunner().invoke(cli, ["eval", str(copy), "--data", str(recipe), "--per-class"])
    assert result.exit_code == 0, result.output
    assert "items of '" in result.output
    assert {file.name for file in (copy / "reports" / "step-2").iterdir()} >= {"kinds.csv", "kinds.png"}
    there = evaluate_source(str(copy), str(recipe))
    assert there.step == 2
    overrides = ["eval.kinds={name: zeroshot, label: group}"]
    assert there.metrics == evaluate_source(str(copy), overrides=overrides).metrics
    (tmp_path / "vectors.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="column"):
        evaluate_source(str(copy), str(tmp_path / "vectors.csv"))
