"""The shipped claims: each names what exists, and each is put to the test at a tiny size, by one seed, which decides
nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_sweeps import train_here, write_small_emoji

from workbench.recipe.schema import Recipe, parse_recipe
from workbench.recipe.yaml_file import recipe_names, shipped_recipes
from workbench.studies import sweeping
from workbench.studies.claim import read_claim
from workbench.studies.claiming import prove
from workbench.studies.sweeping import train_runs

FOLDER = shipped_recipes() / "claims"
CLAIMS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SYNTHETIC = ("data.samples=32", "data.held_out=32", "eval.synthetic={name: synthetic, batches: 2, samples: 32}")


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_emoji(tmp_path_factory.mktemp("emoji"))


def shrink(recipe: Recipe, emoji: Path) -> Recipe:
    """Make a training of two steps; not by overrides of the sweep, in which arms that differ in length became equal."""
    tree: Any = recipe.as_dict()
    if tree["data"]["name"] == "emoji":
        tree["data"] |= {"path": str(emoji)}
    tree["train"] |= {"for": "2 steps", "batch": 8, "warmup": "0 steps", "microbatch": None}
    tree["eval"] |= {"every": "2 steps", "start": False}
    tree |= {"log": {"tensorboard": False}}
    tree["parallel"] |= {"workers": 0}
    return parse_recipe(tree)


def test_a_shipped_claim_is_found_by_its_name_and_is_no_recipe() -> None:
    claim = read_claim("confu_c1_synergy")
    assert (claim.sweep.name, claim.least, claim.seeds) == ("confu-synergy", 5, list(range(8)))
    assert not [name for name in recipe_names() if "claims" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_each_names_what_exists_and_says_its_command_and_time(name: str) -> None:
    claim = read_claim(f"claims/{name}")
    first = (FOLDER / f"{name}.yaml").read_text().partition("\n")[0]
    assert first.startswith(f"# wb claim claims/{name} ")
    assert f"at most {len(claim.arms) * len(claim.seeds)} runs; " in first
    assert " hours" in first or " minutes" in first


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["confu_ablation", "confu_synergy", "ito_ablation", "ito_gap"])
def test_each_is_put_to_the_test(sweep: str, emoji: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms that several claims of a sweep share are trained once."""
    monkeypatch.setattr(sweeping, "train_all", train_here)
    small = SYNTHETIC if sweep == "confu_synergy" else ()
    mine = [name for name in CLAIMS if f"sweep: sweeps/{sweep}\n" in (FOLDER / f"{name}.yaml").read_text()]
    assert mine
    for name in mine:
        claim = read_claim(name, small)
        arms = tuple(replace(arm, recipe=shrink(arm.recipe, emoji)) for arm in claim.arms)
        tiny = replace(claim, sweep=replace(claim.sweep, arms=arms))
        ruling = prove(tiny, tmp_path, partial(train_runs, jobs=1), most=1)
        assert ruling.judgement.verdict in ("undecided", "blind"), name
        assert not ruling.left_out, name
        assert all(found.seeds == 1 and found.estimate is not None for found in ruling.judgement.endpoints), name
        assert all(found.estimate is not None for found in ruling.judgement.positive), name
