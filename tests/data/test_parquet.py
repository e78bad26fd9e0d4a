"""Parquet: pictures as bytes, as the Image feature or as paths; captions as texts, lists or columns."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pairs import pair

from workbench.data.parquet import Parquet
from workbench.errors import BadSample


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write(path: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.slow
def test_bytes_with_texts_or_lists_of_them(tmp_path: Path, look: Any, picture: Any, batches: Any) -> None:
    for n in range(2):
        levels = [3 * n + i for i in range(3)]
        captions = [["a", "bb", "ccc"][: i + 1] for i in range(3)]
        columns = {"image": [picture(x) for x in levels], "caption": captions, "title": [f"t{x}" for x in levels]}
        write(tmp_path / f"{n}.parquet", columns)
    data = Parquet(path=f"{tmp_path}/*.parquet", **pair(at_most=3, pick="first"))
    assert [look(data, i) for i in (0, 1, 5)] == [(0, ["a"]), (1, ["a", "bb"]), (5, ["a", "bb", "ccc"])]
    data = Parquet(path=f"{tmp_path}/{{0..1}}.parquet", **pair(text=("title", "caption"), at_most=2, pick="first"))
    assert look(data, 4) == (4, ["t4", "a"])
    whole, later = batches(data, 6), batches(data, 3, start=3, workers=2)
    assert [b.ids.tolist() for b in whole[3:]] == [b.ids.tolist() for b in later]


def test_paths_and_the_image_feature(tmp_path: Path, look: Any, picture: Any) -> None:
    (tmp_path / "7.png").write_bytes(picture(7))
    file = write(tmp_path / "paths.parquet", {"url": ["7.png", "none.png"], "caption": ["seven", "none"]})
    data = Parquet(path=file, **pair(image="url"))
    assert look(data, 0) == (7, ["seven"])
    with pytest.raises(BadSample, match=r"paths.parquet': row 1: .*none.png"):
        data.sample(1, np.random.default_rng(0))
    features = {"image": datasets.Image(), "caption": datasets.Value("string"), "x": datasets.Value("int64")}
    cells = {"image": [{"bytes": picture(9), "path": None}, None], "caption": ["nine", "none"], "x": [1, 2]}
    table = datasets.Dataset.from_dict(cells, features=datasets.Features(features))
    table.to_parquet(tmp_path / "feature.parquet")
    data = Parquet(path=f"{tmp_path}/feature.parquet")
    assert look(data, 0) == (9, ["nine"])
    with pytest.raises(BadSample, match=r"row 1: no picture: its cell is empty"):
        data.sample(1, np.random.default_rng(0))


def test_mistakes_are_one_clear_message(tmp_path: Path, picture: Any) -> None:
    file = write(tmp_path / "a.parquet", {"jpg": [picture(1)], "caption": ["one"]})
    with pytest.raises(ValueError, match=r"a.parquet has no column 'image'.*known: jpg, caption"):
        len(Parquet(path=file))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"b.parquet is no readable parquet file"):
        len(Parquet(path=f"{tmp_path}/b.parquet"))
    data = Parquet(path=f"{tmp_path}/none/*", samples=5)
    assert len(data) == 5
    assert "no parquet file matches" in (data.missing() or "")


def test_the_held_out_file_is_the_validation_split(tmp_path: Path, picture: Any) -> None:
    train = write(tmp_path / "a.parquet", {"image": [picture(1)], "caption": ["one"]})
    held_out = write(
        tmp_path / "b.parquet", {"image": [picture(2), picture(3)], "caption": [["two", "zwei"], ["three"]]}
    )
    split = Parquet(path=train, validation=held_out).split("validation")
    assert [image.getpixel((0, 0))[0] for image in split.items["image"].raw] == [2, 3]
    assert split.items["text"].ids.tolist() == [0, 0, 1]
