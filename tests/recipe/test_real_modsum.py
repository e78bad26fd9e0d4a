"""The real-modsum recipes on a tiny package: one line without data, then trained, evaluated and measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_modsum import build_tiny

from workbench.bench.real_modsum import main
from workbench.recipe.schema import load_recipe
from workbench.recipe.yaml_file import shipped_recipes
from workbench.runs.train import train

ARMS = ("symile", "confu", "clip")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("modsum"))


def recipe(arm: str, *more: str):
    return load_recipe(shipped_recipes() / f"real_modsum_{arm}.yaml", more)


@pytest.mark.parametrize("arm", ARMS)
def test_without_data_one_line_says_what_to_do(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = recipe(arm).data.build().missing()
    assert missing is not None
    assert "\n" not in missing
    assert "data/real-modsum/train.parquet" in missing


@pytest.mark.slow
def test_arms_train_and_are_measured(data: Path, tmp_path: Path) -> None:
    splits = [f"data.splits.{split}={data / split}.parquet" for split in ("validation", "voice", "language")]
    small = [
        "train.batch=20",
        "train.for=2 steps",
        "train.warmup=1 steps",
        "eval.start=false",
        f"data.path={data / 'train.parquet'}",
    ]
    for arm in ARMS:
        more = [] if arm == "symile" else [f"model.init.from={tmp_path / 'symile'}"]
        outcome = train(recipe(arm, *small, *splits, *more), tmp_path / arm)
        assert outcome.finished
        facts = outcome.records[-1]
        assert {"eval/loss/floor", "eval/voice_loss/loss", "eval/voice/image+speech_to_text_r1"} <= facts.keys()
        assert facts["eval/validation/image+speech_to_text_chance_r1"] > 0.09, "one word in ten is right"
    runs = [str(tmp_path / arm) for arm in ARMS]
    done = CliRunner().invoke(main, [*runs, "--out", str(tmp_path / "lines.csv"), "--steps", "60"])
    assert done.exit_code == 0, done.output
    lines = list(csv.DictReader((tmp_path / "lines.csv").open()))
    assert [(line["objective"], line["split"]) for line in lines] == [
        (arm, split) for arm in sorted(ARMS) for split in ("validation", "voice")
    ]
    for line in lines:
        assert float(line["floor"]) - 0.3 < float(line["ceiling"]) <= float(line["no_information"]) + 1e-4
        assert (line["recovered_of_ceiling"] == "") == (line["objective"] == "clip")
        assert float(line["perceived_image"]) > 0.2, "grey says which digit it is, and chance is .1"
