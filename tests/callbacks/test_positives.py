"""A part of the loss that has nothing to learn from is said once, by its name."""

import re
from pathlib import Path
from typing import Any

import pytest

from workbench.recipe.schema import parse_recipe
from workbench.runs.train import train

NEVER = """
from workbench.data.synthetic import Synthetic

class Apart(Synthetic):
    '''Half of the samples have a alone, the others b and c.'''
    def __init__(self, *, samples: int = 64):
        super().__init__(task=validate("task", "xor"), samples=samples)
    def batches(self, start, feed):
        for batch in super().batches(start, feed):
            first = batch.ids % 2 == 0
            for m in "abc":
                batch.valid[m][:, 0] = first if m == "a" else ~first
            yield batch

from workbench.recipe.component import validate
"""


def test_terms_without_positives_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "apart.py").write_text(NEVER)
    tree: dict[str, Any] = {
        "name": "x",
        "data": {"name": f"{tmp_path}/apart.py:Apart"},
        "objective": "clip",
        "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp")},
        "train": {"for": "4 steps", "batch": 16},
        "parallel": {"workers": 0},
    }
    records = train(parse_recipe(tree), None).records
    shares = {pair: [r[f"train/positives/{pair}"] for r in records if "train/loss" in r] for pair in ("a~b", "b~c")}
    assert shares["a~b"] == [0] * 4
    assert all(0 < share < 1 for share in shares["b~c"])
    said = [line for line in capsys.readouterr().err.splitlines() if "positive" in line]
    assert [re.search(r"step (\d): train/positives/(\S+) is 0", line).groups() for line in said] == [  # type: ignore[union-attr]
        ("1", "a~b"),
        ("1", "a~c"),
    ]
