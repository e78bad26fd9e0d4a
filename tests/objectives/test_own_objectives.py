"""Objectives of a user's own: what they may leave out, and what they hear when something is missing or wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch.nn.functional import normalize

from workbench.build import build_parts
from workbench.cli import cli
from workbench.recipe.schema import parse_recipe
from workbench.runs.train import train
from workbench.types import Objective, Side, View

OWN = """
import torch
from torch import nn
from workbench.types import Loss, Objective, Side

def contrast(x, y):
    s, t = 12 * x @ y.T, torch.arange(len(x))
    return (nn.functional.cross_entropy(s, t) + nn.functional.cross_entropy(s.T, t)) / 2

class Plain(nn.Module):  # neither sides nor score, nor anything of ours
    def __init__(self, modalities):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.all_sides = [Side.parse("a+b"), Side.parse("c")]
    def forward(self, z, pool):
        a, b = (z[side].z[:, 0] for side in self.all_sides)
        return Loss(contrast(self.factor * a, b), {})

class Named(Plain):  # as objectives were written when views were found by names
    def sides(self, step):
        return self.all_sides
    def forward(self, z, pool):
        return Loss(contrast(z["a+b"].z[:, 0], z[str(self.all_sides[1])].z[:, 0]), {})

class Scores(Objective):
    def __init__(self, modalities):
        super().__init__()
        self.all_sides = [Side((m,)) for m in modalities]
    def forward(self, z, pool):
        a, b, c = (z[m].z[:, 0] for m in "abc")
        return Loss(contrast(a, b) + contrast(b, c), {})
    def score(self, query, candidates):
        (x,), (y,) = query.values(), candidates.values()
        return -torch.cdist(x.z[:, 0], y.z[:, 0])

class Bare(nn.Module):
    def __init__(self, modalities):
        super().__init__()

class NoForward(Bare):
    all_sides = [Side(("a",))]

class NoSides(Bare):
    def forward(self, z, pool): ...

class Strings(Plain):
    def __init__(self, modalities):
        super().__init__(modalities)
        self.all_sides = ["a+b", "c"]

class NoModule:
    def __init__(self, modalities):
        self.all_sides = [Side(("a",))]
    def forward(self, z, pool): ...
"""


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "own.py").write_text(OWN)
    return {
        "name": "own",
        "data": {"name": "synthetic", "task": {"name": "xor", "bits": 2}, "samples": 64, "held_out": 30},
        "objective": str(tmp_path / "own.py") + ":Plain",
        "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp"), "fusion": "mlp"},
        "train": {"for": "2 steps", "batch": 16},
        "eval": {"retrieval": {"k": [1]}, "synthetic": {"batches": 2, "samples": 50}},
        "parallel": {"workers": 0},
    }


@pytest.mark.parametrize(
    ("name", "asked"), [("Plain", {"a+b_to_c"}), ("Named", {"a+b_to_c"}), ("Scores", {"a_to_b", "c_to_a"})]
)
def test_an_objective_that_leaves_things_out_trains_and_is_evaluated(
    tree: dict[str, Any], name: str, asked: set[str]
) -> None:
    """It would have ended in a traceback at the first evaluation, after the work of an epoch."""
    tree["objective"] = tree["objective"].replace("Plain", name)
    if name == "Scores":  # one side at a time, as nothing is known of its score of several
        tree["eval"]["synthetic"] = {"batches": 2, "samples": 50, "given": ["b"]}
    records = train(parse_recipe(tree), None).records
    last = {name.removeprefix("eval/"): value for record in records[-2:] for name, value in record.items()}
    ways = {name.removeprefix("retrieval/").removesuffix("_median_rank") for name in last if "median_rank" in name}
    assert asked <= ways
    assert all("+" not in way or way == "a+b_to_c" for way in ways)
    assert last["synthetic/loss"] > 0
    assert "synthetic/floor" not in last


def test_defaults_do_not_rename_the_tensors_of_a_plain_module(tree: dict[str, Any]) -> None:
    objective = build_parts(parse_recipe(tree)).objective
    assert isinstance(objective, Objective)
    assert list(objective.state_dict()) == ["factor"]
    assert type(objective).__name__ == "Plain"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoForward", "lacks forward: see workbench.types.Objective"),
        ("NoSides", "lacks all_sides: see workbench.types.Objective"),
        ("Strings", "all_sides has ['a+b', 'c']: write Side.parse('a+b')"),
        ("NoModule", "inherit from workbench.types.Objective"),
    ],
)
def test_what_has_no_default_is_missed_when_the_recipe_is_checked(
    tree: dict[str, Any], tmp_path: Path, name: str, message: str
) -> None:
    tree["objective"] = tree["objective"].replace("Plain", name)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "r.yaml")])
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_default_score_is_the_mean_cosine_of_the_sides_that_ask() -> None:
    class Three(Objective):
        all_sides = (Side.parse("a"), Side.parse("+b"), Side.parse("c"), Side.parse("a+c"))

    a, b, c = (normalize(torch.randn(n, 5), dim=1) for n in (4, 4, 6))
    rows = {Side((m,)): View(x[:, None], torch.ones(len(x), 1).bool()) for m, x in (("a", a), ("b", b))}
    target = {Side(("c",)): View(c[:, None], torch.ones(6, 1).bool())}
    torch.testing.assert_close(Three().score(rows, target), (a @ c.T + b @ c.T) / 2)
    assert Three().ask(("a", "c"), "b") == ((Side.parse("a+c"),), Side.parse("+b"))
    assert Three().ask(("c",), "a") == (("c",), "a")
    assert Three().ask(("b", "c"), "a") == (("+b", "c"), "a"), "b is there as +b only"
    assert Three().ask(("a",), "d") is None
