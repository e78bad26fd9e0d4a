"""What the documentation tells people to write is valid."""

import re
from pathlib import Path

import pytest
import yaml

from workbench.recipe.component import validate

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
