"""The callback of docs/callbacks.md, from its own lines."""

from pathlib import Path

import pytest
from page_blocks import PAGES, read_blocks

from workbench.recipe.schema import load_recipe, parse_recipe
from workbench.runs.train import train


@pytest.mark.slow
def test_the_callback_shown_stops_a_run_that_gets_no_better(tmp_path: Path) -> None:
    blocks = read_blocks(PAGES["docs/callbacks.md"].read_text(encoding="utf-8"))
    (code,) = (block.text for block in blocks if block.language == "python")
    (tmp_path / "patience.py").write_text(code)
    small = ("data.samples=64", "train.batch=32", "train.for=8 steps", "log.tensorboard=false")
    tree = load_recipe("synth/clip", small).as_dict()
    tree["eval"] = {"every": "1 steps", "synthetic": {"batches": 2, "samples": 32}}
    # the best there is never changes
    metric = {"metric": "max synthetic/bayes", "evaluations": 2}
    tree["callbacks"] = {"patience": {"name": f"{tmp_path}/patience.py:Patience", **metric}}
    assert train(parse_recipe(tree), tmp_path / "run").step == 2
    assert train(parse_recipe(tree), tmp_path / "run").step == 3  # asked once more, it looks at one more
