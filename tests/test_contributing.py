"""The promises of CONTRIBUTING: its objectives, copied into files, train and are judged; its picture is current."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

from synthetic.xor import XOR
from workbench.cli import cli
from workbench.recipe.schema import load_recipe
from workbench.types import Pool, Side, View

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = {
    name: text
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for name in re.findall(r'__all__ = \["(\w+)"\]', text)
}
"""{class: the block of CONTRIBUTING that has it}"""
SMALL = ("data.samples=256", "data.held_out=64", "train.batch=32", "train.for=3 epochs", "eval.synthetic.batches=4")


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """{class: how a recipe names it}, each copied into a file of its own."""
    for name, text in CODE.items():
        (tmp_path / f"{name.lower()}.py").write_text(text, encoding="utf-8")
    return {name: f"{tmp_path / name.lower()}.py:{name}" for name in CODE}


def test_there_is_a_sum_of_terms_and_one_that_is_none() -> None:
    assert {name: "(Terms)" in text for name, text in CODE.items()} == {"Chain": True, "AlignUniform": False}


@pytest.mark.slow
def test_copied_objectives_train_are_judged_and_stand_in_one_table(
    files: dict[str, str], no_new_interpreter: None
) -> None:
    names = ["clip", *files.values()]
    options = [word for name in names for word in ("--objective", name)]
    options += [word for key in SMALL for word in ("--set", key)]
    run = CliRunner().invoke(cli, ["synth", "--task", "xor", *options, "--seeds", "1", "--jobs", "1", "--json"])
    assert run.exit_code == 0, run.output
    found = {result["objective"]: result for result in json.loads(run.stdout)["results"]}
    assert list(found) == names
    chain, none = found[files["Chain"]], found[files["AlignUniform"]]
    truth = XOR().truth(32)
    floors = [truth.infonce((a,), (b,)) for a, b in (("a", "b"), ("b", "c"))]
    assert chain["floor"] == pytest.approx(sum(f.value for f in floors if f))
    assert chain["no_information_loss"] == pytest.approx(2 * math.log(32))
    assert chain["verdict"] in ("blind", "worse than blind")  # pairs of xor say nothing, and the run is short
    assert (none["verdict"], none["floor"]) == ("unknown", None)
    assert all(0 <= result["accuracy"] <= 1 for result in found.values())


def test_the_second_one_is_what_its_formula_says(files: dict[str, str], in_float64: None) -> None:
    module = load(Path(files["AlignUniform"].rpartition(":")[0]), "contributing_align_uniform")
    weight, n = random.uniform(0.1, 3), 7
    sides = [Side((m,)) for m in "abc"]
    x = {side: torch.nn.functional.normalize(torch.randn(n, 1, 5), dim=-1) for side in sides}
    z = {side: View(rows, torch.ones(n, 1).bool()) for side, rows in x.items()}
    total = module.AlignUniform("abc", weight=weight)(z, Pool(z, torch.arange(n))).total
    a, b, c = (x[side][:, 0] for side in sides)
    pairs = sum(((p - q) ** 2).sum(1).mean() for p, q in ((a, b), (a, c), (b, c)))
    spread = 0.0
    for rows in (a, b, c):
        kernel = [math.exp(-2 * float(((rows[i] - rows[j]) ** 2).sum())) for i in range(n) for j in range(n) if i != j]
        spread += math.log(sum(kernel) / len(kernel))
    assert float(total) == pytest.approx(float(pairs) + weight * spread, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CODE))
def test_copied_objectives_are_the_same_on_two_processes(
    files: dict[str, str], name: str, tmp_path: Path, no_new_interpreter: None
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"extends: synth/clip.yaml\nobjective: {files[name]}\n", encoding="utf-8")
    assert load_recipe(recipe).objective.is_own
    run = CliRunner().invoke(cli, ["check", str(recipe), "--deep"])
    assert run.exit_code == 0, run.output
    assert len(re.findall("the same$", run.stderr, re.MULTILINE)) == 4


@pytest.fixture(scope="module")
def house() -> ModuleType:
    pytest.importorskip("grimp")
    return load(ROOT / "docs" / "draw_house.py", "draw_house")


@pytest.mark.slow
def test_the_picture_of_the_house_is_current(house: ModuleType) -> None:
    now, drawn = set(house.read_edges()), set(house.read_committed())
    assert now == drawn, f"new {now - drawn}, gone {drawn - now}: run `just house` and look at docs/house.svg"
    picture = house.PICTURE.read_text(encoding="utf-8")
    for room in {room for rooms in house.read_floors() for room in rooms} - house.HIDDEN:
        assert f">{room}/<" in picture or f">{room}.py<" in picture, f"{room} is not drawn: run `just house`"


def test_arrows_of_the_house_point_down_and_implied_ones_are_left_out(house: ModuleType) -> None:
    floor = {room: number for number, rooms in enumerate(house.read_floors()) for room in rooms}
    assert all(floor[a] < floor[b] for a, b in house.read_edges())
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d"), ("x", "d")]
    assert house.leave_out_implied(edges) == [("a", "b"), ("b", "c"), ("c", "d"), ("x", "d")]


def test_boxes_of_a_row_never_overlap(house: ModuleType) -> None:
    layout = house.Layout(house.read_floors(), house.leave_out_implied(house.read_edges()))
    for rooms in house.read_floors():
        places = sorted(layout.x[room] for room in rooms)
        assert all(b - a >= house.WIDE for a, b in pairwise(places))
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    values = [random.Random(seed).uniform(-1, 1) for _ in range(20)]
    risen = house.rise(values)
    assert risen == sorted(risen)
    assert sum(risen) == pytest.approx(sum(values))


@pytest.mark.parametrize("path", re.findall(r"`(workbench/[\w/.]+|synthetic/\w+|tests/\w+|kernels|recipes)[`/]", PAGE))
def test_every_place_that_the_page_names_is_there(path: str) -> None:
    assert (ROOT / path.replace("NAME", "clip")).exists(), path
