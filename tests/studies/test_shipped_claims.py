"""The shipped claims: each names what exists, and each is put to the test at a tiny size, by one seed, which decides
nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_sweeps import train_here, write_small_emoji
from tiny_tux import png, sound

from workbench.recipe.schema import Recipe, parse_recipe
from workbench.recipe.yaml_file import recipe_names, shipped_recipes
from workbench.studies import claim, sweeping
from workbench.studies.claim import read_claim
from workbench.studies.claiming import prove
from workbench.studies.sweeping import train_runs

FOLDER = shipped_recipes() / "claims"
CLAIMS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SWEEPS = [
    "confu_ablation",
    "confu_modalities",
    "confu_synergy",
    "ito_ablation",
    "ito_gap",
    "ito_noise",
    "ito_saturation",
    "lineup",
    "tux_scratch",
]
SYNTHETIC = ("data.samples=32", "data.held_out=32", "eval.synthetic={name: synthetic, batches: 2, samples: 32}")


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_emoji(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def tux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a set of the columns of tux, one file for each split, of eight stamps in two voices."""
    folder = tmp_path_factory.mktemp("tux")
    rows = [
        {
            "image": png(20 * n),
            "text": f"A thing number {n}.",
            "speech": sound(200 + 50 * n + voice),
            **{"concept": str(n), "category": "things", "language": str(voice)},
        }
        for n in range(8)
        for voice in range(2)
    ]
    for split in ("train", "validation", "test", "voice"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


SMALL_IMAGE = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 16, "head_width": 16}
SMALL_TEXT = {"context_length": 16, "width": 16, "heads": 2, "layers": 1}
read_once = cache(read_claim)


@pytest.fixture(autouse=True, scope="module")
def each_sweep_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claim, "read_sweep", cache(claim.read_sweep))
        yield


def shrink(recipe: Recipe, emoji: Path, tux: Path, judged: set[str]) -> Recipe:
    """Make a training of two steps by small towers, evaluated by what the claims read; not by overrides of the sweep,
    in which arms that differ in length became equal."""
    tree: Any = recipe.as_dict()
    if tree["data"]["name"] == "emoji":
        tree["data"] |= {"path": str(emoji)}
        for name, encoder in tree["model"]["encoders"].items():
            encoder["config"] = SMALL_IMAGE if name == "image" else SMALL_TEXT
    if tree["data"]["name"] == "parquet":
        splits = {split: str(tux / f"{split}.parquet") for split in tree["data"]["splits"]}
        tree["data"] |= {"path": str(tux / "train.parquet"), "splits": splits, "samples": 16}
        speech = {"name": "audio", "model": "test_vit", "mels": 32}
        small = {"name": "open_clip", "augment": "none", "config": SMALL_IMAGE}
        tree["model"]["encoders"] |= {
            "image": small,
            "text": {"name": "open_clip", "config": SMALL_TEXT},
            "speech": speech,
        }
    tree["train"] |= {"for": "2 steps", "batch": 8, "warmup": "0 steps", "microbatch": None}
    judged = judged | {"best", str(tree["eval"]["best"]).partition("/")[0]}
    kept = {key: value for key, value in tree["eval"].items() if key in judged}
    tree["eval"] = kept | {"every": "2 steps", "start": False}
    tree |= {"log": {"tensorboard": False}}
    tree["parallel"] |= {"workers": 0}
    return parse_recipe(tree)


def test_a_shipped_claim_is_found_by_its_name_and_is_no_recipe() -> None:
    found = read_claim("confu_c1_synergy")
    assert (found.sweep.name, found.least, found.seeds) == ("confu-synergy", 5, list(range(8)))
    assert not [name for name in recipe_names() if "claims" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_each_names_what_exists_and_says_its_command_and_time(name: str) -> None:
    shipped = read_once(name)
    first = (FOLDER / f"{name}.yaml").read_text().partition("\n")[0]
    assert first.startswith(f"# wb claim claims/{name} ")
    assert f"at most {len(shipped.arms) * len(shipped.seeds)} runs; " in first
    assert " hours" in first or " minutes" in first


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
def test_each_is_put_to_the_test(
    sweep: str, emoji: Path, tux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arms that several claims of a sweep share are trained once."""
    monkeypatch.setattr(sweeping, "train_all", train_here)
    small = SYNTHETIC if sweep in ("confu_synergy", "confu_modalities") else ()
    mine = [name for name in CLAIMS if f"sweep: sweeps/{sweep}\n" in (FOLDER / f"{name}.yaml").read_text()]
    assert mine
    claims = [read_once(name, small) for name in mine]
    judged = {endpoint.name.partition("/")[0] for found in claims for endpoint in found.section.endpoint}
    for name, found in zip(mine, claims, strict=True):
        arms = tuple(replace(arm, recipe=shrink(arm.recipe, emoji, tux, judged)) for arm in found.arms)
        tiny = replace(found, sweep=replace(found.sweep, arms=arms))
        ruling = prove(tiny, tmp_path, partial(train_runs, jobs=1), most=1)
        assert ruling.judgement.verdict in ("undecided", "blind"), name
        assert not ruling.left_out, name
        assert all(told.seeds == 1 and told.estimate is not None for told in ruling.judgement.endpoints), name
        assert all(told.estimate is not None for told in ruling.judgement.positive), name
