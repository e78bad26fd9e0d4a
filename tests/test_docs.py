"""What the documentation tells people to write is valid."""

import re
from pathlib import Path

import pytest
import yaml

from workbench.recipe.component import validate
from workbench.recipe.schema import load_recipe, parse_recipe
from workbench.runs.train import train

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "data.md"
TREES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]
BLOCKS = [tree["data"] for tree in TREES if "data" in tree]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["name"])
def test_every_data_block_builds(block: dict) -> None:
    data = validate("data", block).build()
    assert set(data.declared) == {"image", "text"} | set(block.get("fields", ()))


def test_the_encoder_shown_is_an_encoder() -> None:
    (model,) = (tree["model"] for tree in TREES if "model" in tree and "data" not in tree)
    augment = validate("encoder", model["encoders"]["image"]).settings.augment  # type: ignore[attr-defined]
    assert (augment.jitter, augment.blur) == ((0.4, 0.4, 0.4, 0.1), 0.1)


def test_every_source_is_shown() -> None:
    assert {block["name"] for block in BLOCKS} == {"shards", "folder", "csv", "json", "parquet", "hf"}


def test_the_site_has_a_way_to_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    listed = re.findall(r"[\w/]+\.md", str(nav))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(pages | {"index.md"}), "mkdocs.yml: its navigation lists each page of docs/ once"


@pytest.mark.slow
def test_the_callback_shown_stops_a_run_that_gets_no_better(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.with_name("callbacks.md").read_text(), re.DOTALL)
    (tmp_path / "patience.py").write_text(code)
    small = ("data.samples=64", "train.batch=32", "train.for=8 steps", "log.tensorboard=false")
    tree = load_recipe("synth/clip", small).as_dict()
    tree["eval"] = {"every": "1 steps", "synthetic": {"batches": 2, "samples": 32}}
    # the best there is never changes
    metric = {"metric": "max synthetic/bayes", "evaluations": 2}
    tree["callbacks"] = {"patience": {"name": f"{tmp_path}/patience.py:Patience", **metric}}
    assert train(parse_recipe(tree), tmp_path / "run").step == 2
    assert train(parse_recipe(tree), tmp_path / "run").step == 3  # asked once more, it looks at one more
