"""`wb check` says what a training would stumble over, and what it did not look at."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from workbench.cli import cli


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments])


def test_a_sound_recipe_is_ok_and_what_was_not_looked_at_is_named() -> None:
    done = check("synth/clip", "synth/confu")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["synth/clip: ok", "synth/confu: ok"]
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["not looked at"]


def test_missing_data_and_missing_evaluators_are_told_without_being_mistakes() -> None:
    done = check("ito_b16_cc12m", "--set", "eval.retrieval=null", "--set", "eval.best=null")
    assert done.exit_code == 0
    assert "a training would stop at once: no tar matches 'data/cc12m/*.tar'" in done.stderr
    assert "no evaluator: the loss is all" in done.stderr


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ("syntetic/accuracy", "no evaluator 'syntetic'; did you mean 'synthetic'?"),
        ("min loss/total", "no evaluator 'loss'"),
        ("accuracy", "no evaluator 'accuracy'"),
    ],
)
def test_a_best_metric_of_no_evaluator_is_refused(best: str, words: str) -> None:
    done = check("synth/clip", "--set", f"eval.best={best}")
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_best_metric_of_an_evaluator_is_taken() -> None:
    for best in ("synthetic/accuracy", "min synthetic/loss"):
        assert check("synth/clip", "--set", f"eval.best={best}").exit_code == 0


def test_a_batch_of_one_is_refused_with_the_reason() -> None:
    done = check("synth/clip", "--set", "train.batch=1")
    assert done.exit_code == 2
    assert "train.batch: a sample is contrasted with the others of its batch: write 2 or more (got 1)" in done.stderr


def test_a_space_of_one_dimension_is_refused_with_the_reason() -> None:
    done = check("synth/clip", "--set", "model.dim=1")
    assert done.exit_code == 2
    assert "model.dim: embeddings are unit vectors, which in one dimension are 1 or -1" in done.stderr


@pytest.mark.parametrize(
    ("tower", "words"),
    [
        ({"lock": 0}, "every parameter of the model is frozen: remove a lock"),
        ({"context_length": 2}, "context_length (2) leaves no place for a word"),
    ],
)
def test_towers_that_cannot_learn_anything_are_refused(tmp_path: Path, tower: dict[str, int], words: str) -> None:
    image = {"config": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}, "lock": 0}
    text = {"config": {"context_length": 8, "width": 32, "heads": 2, "layers": 1}, **tower}
    file = tmp_path / "r.yaml"
    recipe = {
        "name": "x",
        "data": "emoji",
        "model": {"dim": 8, "encoders": {m: {"name": "open_clip", **t} for m, t in (("image", image), ("text", text))}},
        "objective": {"name": "clip", "scale": {"learn": True}},
        "train": {"for": "1 steps", "batch": 4},
    }
    file.write_text(json.dumps(recipe))
    done = check(str(file))
    assert done.exit_code == 2
    assert words in done.stderr
