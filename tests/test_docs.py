"""What the documentation tells people to write is valid."""

import re
from pathlib import Path

import pytest
import yaml

from workbench.component import validate

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
BLOCKS = [yaml.safe_load(text)["data"] for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["name"])
def test_every_data_block_builds(block: dict) -> None:
    data = validate("data", block).build()
    assert set(data.modalities) == {"image", "text"}


def test_every_source_of_pairs_is_shown() -> None:
    assert {block["name"] for block in BLOCKS} == {"shards", "folder", "csv", "parquet", "hf"}
