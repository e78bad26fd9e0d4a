"""Kept items give the batches that reading row by row gives, to the bit, and refuse what cannot be kept."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from workbench.data.csv import CSV
from workbench.data.parquet import Parquet
from workbench.data.shards import Shards
from workbench.encoders.open_clip import OpenCLIP
from workbench.loading import kept
from workbench.loading.augment import Augment
from workbench.loading.batching import to_float32
from workbench.loading.feed import Feed
from workbench.loading.fields import Fields

FIELDS = {"image": {"from": "image"}, "numbers": {"kind": "vector", "dim": 3}, "text": {"from": "text"}}
TOWER = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
ROWS = 24


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Three pictures, five vectors and four words in twenty-four rows, of which one lacks its vector."""
    folder = tmp_path_factory.mktemp("kept")
    for at in range(3):
        Image.new("RGB", (20, 16), (90 * at, 40, 200 - 90 * at)).save(folder / f"{at}.png")
    for at in range(5):
        np.save(folder / f"{at}.npy", np.arange(3, dtype=np.float32) + at)
    columns = {
        "image": [f"{at % 3}.png" for at in range(ROWS)],
        "numbers": [None if at == 7 else f"{at * 7 % 5}.npy" for at in range(ROWS)],
        "text": [["one", "two", "three", "four"][at // 5 % 4] for at in range(ROWS)],
        "film": [at // 2 for at in range(ROWS)],
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    lines = ["image,numbers,text", *(",".join(map(str, row[:3])) for row in zip(*columns.values(), strict=True))]
    (folder / "rows.csv").write_text("\n".join(lines).replace("None", "") + "\n")
    return folder


def feed(data, augment: str = "none", batch: int = 6) -> Feed:
    torch.manual_seed(0)
    image = OpenCLIP(data.modalities["image"], 8, config=TOWER, augment=Augment.model_validate(augment))
    text = OpenCLIP(data.modalities["text"], 8, config={"context_length": 5, "width": 8, "heads": 1, "layers": 1})
    transforms = {"image": image.transform(True), "numbers": to_float32, "text": text.transform(True)}
    return Feed(transforms, batch, seed=3)


def make(files: Path, **more):
    return Parquet(path=str(files / "rows.parquet"), fields=Fields.parse(FIELDS), **more)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"id": "film"}, {"validation": "25 %"}], ids=str)
def test_batches_are_those_of_reading_row_by_row(files, more):
    read, remembered = make(files, **more), make(files, keep=True, **more)
    for start in (0, 5):
        pairs = zip(islice(read.batches(start, feed(read)), 7), remembered.batches(start, feed(read)), strict=False)
        for one, other in pairs:
            assert one.ids.equal(other.ids)
            for name in FIELDS:
                assert one.valid[name].equal(other.valid[name])
                there = one.valid[name][:, 0]
                assert one.inputs[name][there].equal(other.inputs[name][there])


def test_each_distinct_item_is_read_once(files, monkeypatch):
    data, read = make(files, keep=True), []
    own = kept._item
    monkeypatch.setattr(kept, "_item", lambda *given, **more: read.append((given[1], more)) or own(*given, **more))
    next(data.batches(0, feed(data)))
    once = [name for name, more in read if not more]
    assert {name: once.count(name) for name in FIELDS} == {"image": 3, "numbers": 6, "text": 4}  # a gap is an item, too


def test_standardisation_sees_each_distinct_item_once(files):
    assert len(list(make(files, keep=True).raw_items("numbers", 100))) == 5
    assert len(list(make(files).raw_items("numbers", 100))) == ROWS - 1


def test_tables_that_do_not_know_what_repeats_give_the_same_batches(files):
    given = {"path": str(files / "rows.csv"), "fields": Fields.parse(FIELDS)}
    read, remembered = CSV(**given), CSV(**given, keep=True)
    for one, other in zip(islice(read.batches(0, feed(read)), 4), remembered.batches(0, feed(read)), strict=False):
        assert one.ids.equal(other.ids)
        assert one.inputs["image"].equal(other.inputs["image"])


def test_a_transform_that_draws_is_refused(files):
    data = make(files, keep=True)
    with pytest.raises(ValueError, match=r"the transform of 'image' draws.*model\.encoders\.image\.augment: none"):
        next(data.batches(0, feed(data, augment="ito")))


def test_what_cannot_be_read_and_what_lacks_too_much_is_one_message(files, tmp_path):
    def fails(columns: dict[str, list], message: str) -> None:
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        data = make(tmp_path, keep=True, root=files)
        with pytest.raises(ValueError, match=message):
            next(data.batches(0, feed(data, batch=2)))

    fine = {"image": ["0.png", "1.png"], "numbers": ["0.npy", "1.npy"], "text": ["one", "two"]}
    fails({**fine, "image": ["0.png", "rows.csv"]}, r"row 1 cannot be kept .*leave keep out")
    fails({**fine, "image": ["0.png", None], "numbers": ["0.npy", None]}, r"row 1 has only text, and so 1 of 2 rows")


def test_keeping_and_streaming_exclude_each_other(files):
    with pytest.raises(ValueError, match="keep holds all items in memory"):
        Shards(path="x.tar", streaming=True, samples=5, keep=True)
