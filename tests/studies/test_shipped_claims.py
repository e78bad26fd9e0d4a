"""The shipped claims: each names what exists, and each is put to the test at a tiny size, by one seed, which decides
nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tiny_sweeps import train_here

from workbench.recipe.yaml_file import recipe_names, shipped_recipes
from workbench.studies import sweeping
from workbench.studies.claim import read_claim
from workbench.studies.claiming import prove
from workbench.studies.sweeping import train_runs

FOLDER = shipped_recipes() / "claims"
CLAIMS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TINY = ("train.for=2 steps", "train.batch=8", "train.warmup=0 steps", "eval.every=2 steps", "eval.start=false")
SYNTHETIC = ("data.samples=32", "data.held_out=32", "eval.synthetic={name: synthetic, batches: 2, samples: 32}")


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
def test_each_is_put_to_the_test(sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms that several claims of a sweep share are trained once."""
    monkeypatch.setattr(sweeping, "train_all", train_here)
    tiny = (*TINY, *(SYNTHETIC if sweep == "confu_synergy" else ()), "parallel.workers=0", "log.tensorboard=false")
    mine = [name for name in CLAIMS if f"sweep: sweeps/{sweep}\n" in (FOLDER / f"{name}.yaml").read_text()]
    assert mine
    for name in mine:
        ruling = prove(read_claim(name, tiny), tmp_path, partial(train_runs, jobs=1), most=1)
        assert ruling.judgement.verdict in ("undecided", "blind"), name
        assert not ruling.left_out, name
        assert all(found.seeds == 1 and found.estimate is not None for found in ruling.judgement.endpoints), name
        assert all(found.estimate is not None for found in ruling.judgement.positive), name
