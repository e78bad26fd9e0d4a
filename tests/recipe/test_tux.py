"""The tux recipes on a tiny package of the same layout: planned without data, trained for two steps, evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_papers import RECIPES, plan, run, train
from tiny_tux import write_tiny_deb

from workbench.builders.tux import build

pytest.importorskip("resvg_py")
ARMS = ("clip3", "symile", "confu", "confu_chain")
TOWERS = {
    "model__dim": 8,
    "model__encoders__image": "{name: open_clip, augment: none, config: {layers: 1, width: 16, head_width: 8, "
    "patch_size: 8, image_size: 16, timm_model_name: null}}",
    "model__encoders__text__config": "{context_length: 8, width: 16, heads: 2, layers: 1}",
}
AUDIO = "{name: audio, model: test_vit, mels: 32}"
DIMS = {"image": 1280, "text": 384, "speech": 288, "other": 288}
FEATURES = pa.schema(
    [*((k, pa.string()) for k in ("id", "category", "language")), *((k, pa.list_(pa.float32())) for k in DIMS)]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build tiny data/tux, and beside it features as frozen encoders would have written them."""
    root = tmp_path_factory.mktemp("tux")
    build(root / "data" / "tux", write_tiny_deb(root / "tiny.deb"), size=16)
    write_features(root / "data" / "tux")
    return root / "data"


def write_features(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "frozen").mkdir()
    for split in ("train", "validation", "test", "voice"):
        rows = pq.read_table(folder / f"{split}.parquet").to_pylist()
        for row in rows:
            row["id"] = row["concept"]
            row |= {name: rng.normal(size=dim).tolist() if row[name] else None for name, dim in DIMS.items()}
        rows = [{name: row[name] for name in FEATURES.names} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES), folder / "frozen" / f"{split}.parquet")


@pytest.mark.slow
def test_without_data_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = {f"tux_{kind}{arm}.yaml" for arm in ARMS for kind in ("", "frozen_")}
    assert {path.name for path in RECIPES.glob("tux_*.yaml")} == recipes | {"tux_embed.yaml"}
    for recipe in recipes:
        said = run("pretrain", recipe, fails=True)
        assert "\n" not in said
        assert "image and text and speech" in said
    plan("tux_frozen_confu_chain.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_trains_and_is_evaluated(arm: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("", "frozen_"):
        (tmp_path / f"of_{kind}").mkdir()
        (tmp_path / f"of_{kind}" / "data").symlink_to(data)
        monkeypatch.chdir(tmp_path / f"of_{kind}")
        towers = {} if kind else {**TOWERS, "model__encoders__speech": AUDIO}
        if arm == "confu_chain" and not kind:
            towers["model__encoders__other"] = AUDIO
        found = train(f"tux_{kind}{arm}.yaml", train__batch=8, **towers)
        ways = {"image_to_text", "speech_to_text", "speech_to_image", "text_to_speech", "image+speech_to_text"}
        assert {f"{split}/{way}_r1" for split in ("test", "voice") for way in ways} <= found.keys(), kind
        assert ("test/image+speech+other_to_text_r5" in found) == (arm == "confu_chain")
        assert found["test/image_to_text_chance_r1"] == pytest.approx(1 / 5)
        assert found["test/image_to_text_chance_r5"] == 1, "of five sentences each is searched once"
