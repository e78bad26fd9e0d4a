"""The four fields of docs/data.md, from its own lines: files are written, inspected, trained on and evaluated."""

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from json_keys import assert_keys
from page_blocks import PAGES, read_blocks

import workbench
from workbench.cli import cli
from workbench.recipe.component import validate

PAGE = PAGES["docs/data.md"]
TREES = [yaml.safe_load(b.text) for b in read_blocks(PAGE.read_text(encoding="utf-8")) if b.language == "yaml"]
DATA = [tree["data"] for tree in TREES if "data" in tree]


@pytest.mark.parametrize("block", DATA, ids=lambda block: block["name"])
def test_every_data_block_builds(block: dict) -> None:
    data = validate("data", block).build()
    assert set(data.declared) == {"image", "text"} | set(block.get("fields", ()))


def test_the_encoder_shown_has_what_its_comment_says() -> None:
    (model,) = (tree["model"] for tree in TREES if "model" in tree and "data" not in tree)
    augment = validate("encoder", model["encoders"]["image"]).settings.augment  # type: ignore[attr-defined]
    assert (augment.jitter, augment.blur) == ((0.4, 0.4, 0.4, 0.1), 0.1)


def test_every_source_is_shown() -> None:
    assert {block["name"] for block in DATA} == {"shards", "folder", "csv", "json", "parquet", "hf"}


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## Four fields") :]
    (program,), (recipe,) = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)[:1] for kind in ("python", "yaml"))
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    (tmp_path / "cards.yaml").write_text(recipe)
    return tmp_path


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_the_page_says_what_the_inspection_finds(cards: Path) -> None:
    found = json.loads(run("data", "inspect", "cards.yaml", "--json"))
    rows = [json.loads(line) for line in (cards / "cards" / "metadata.jsonl").read_text().splitlines()]
    says, readings = (sum(row[key] is not None for row in rows) for key in ("says", "readings"))
    assert found["fields"] == {"image": 300, "text": says, "sensor": readings, "track": 300}
    assert f"text {says}, sensor {readings}," in PAGE.read_text(encoding="utf-8")
    both = sum(row["says"] is not None and row["readings"] is not None for row in rows)
    assert found["combinations"] == {
        "image+text+sensor+track": both,
        "image+sensor+track": 300 - says,
        "image+text+track": 300 - readings,
    }
    assert found["bad"]["number"] == 0


@pytest.mark.slow
def test_the_recipe_of_the_page_is_checked(cards: Path) -> None:
    run("check", "cards.yaml")


@pytest.mark.slow
def test_the_page_trains_and_evaluates(cards: Path) -> None:
    few = ("--set", "train.for=4 steps", "--set", "train.warmup=1 steps", "--set", "parallel.workers=0")
    run("pretrain", "cards.yaml", "--run", "run", "--set", "log.tensorboard=false", *few)
    found = json.loads(run("eval", "run", "--json"))
    assert_keys("eval", found)
    assert any("image+text+sensor_to_track" in name for name in json.dumps(found).split('"'))
    assert workbench.load("run").encode({"sensor": [[0.0] * 10]})["sensor"].shape == (1, 16)
