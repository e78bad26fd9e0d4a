"""Data sets of the `datasets` library: saved ones, folders, map-style and streamed."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from small_pairs import pair

from workbench.data.hf import HF


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def rows(picture: Any) -> Any:
    """A data set of these grey levels, in the Image feature, with a list of captions."""

    def make(*levels: int) -> datasets.Dataset:
        columns = {
            "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in levels],
            "caption": [[f"number {n}", f"also {n}"] for n in levels],
            "label": list(levels),
        }
        features = {"image": datasets.Image(), "caption": [datasets.Value("string")], "label": datasets.Value("int64")}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    return make


@pytest.mark.slow
def test_saved_splits(tmp_path: Path, rows: Any, look: Any, batches: Any) -> None:
    splits = datasets.DatasetDict({"train": rows(1, 2, 3, 4, 5), "test": rows(6, 7)})
    splits.save_to_disk(tmp_path / "saved")
    data = HF(path=f"{tmp_path}/saved", validation="test", **pair(at_most=2, pick="first"))
    assert len(data) == 5
    assert look(data, 2) == (3, ["number 3", "also 3"])
    split = data.split("validation")
    assert [image.getpixel((0, 0))[0] for image in split.items["image"].raw] == [6, 7]
    assert split.items["text"].ids.tolist() == [0, 0, 1, 1]
    whole, later = batches(data, 6), batches(data, 3, start=3, workers=1)
    assert [b.inputs["image"].tolist() for b in whole[3:]] == [b.inputs["image"].tolist() for b in later]
    with pytest.raises(ValueError, match=r"split 'validation': there is no such split.*known: train, test"):
        HF(path=f"{tmp_path}/saved", validation="validation").split("validation")


def test_a_single_saved_split_is_not_also_the_held_out_one(tmp_path: Path, rows: Any) -> None:
    rows(1, 2).save_to_disk(tmp_path / "saved")
    data = HF(path=f"{tmp_path}/saved", validation="test")
    assert len(data) == 2
    with pytest.raises(ValueError, match=r"there is no such split.*known: train"):
        data.split("validation")


@pytest.fixture
def folder(tmp_path: Path, rows: Any) -> Path:
    for part in range(4):
        rows(*range(10 * part, 10 * part + 6)).to_parquet(tmp_path / "folder" / f"train-{part}.parquet")
    rows(90, 91).to_parquet(tmp_path / "folder" / "test-0.parquet")
    return tmp_path / "folder"


@pytest.mark.slow
def test_a_folder_that_load_dataset_reads(folder: Path, look: Any) -> None:
    data = HF(path=str(folder), validation="test[:1]")
    assert len(data) == 24
    assert look(data, 7)[0] == 11
    assert len(data.split("validation").items["image"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_reaches_every_file(folder: Path, batches: Any, workers: int) -> None:
    data = HF(path=str(folder), streaming=True, samples=24, buffer=3)
    seen = [int(x) for b in batches(data, 24, workers=workers) for x in b.inputs["image"].flatten()]
    expected = {10 * part + i for part in range(4) for i in range(6)}
    assert set(seen) <= expected
    assert len(set(seen)) >= 22  # two passes; the buffers hold back a few
    with pytest.raises(ValueError, match=r"reads 4 parts .* with 5 readers"):
        batches(data, 1, workers=5)


def test_streaming_what_was_saved(tmp_path: Path, rows: Any, batches: Any) -> None:
    rows(*range(8)).save_to_disk(tmp_path / "saved", num_shards=2)
    data = HF(path=f"{tmp_path}/saved", streaming=True, samples=8, buffer=1)
    seen = [int(x) for b in batches(data, 4) for x in b.inputs["image"].flatten()]
    assert sorted(seen) == list(range(8))


def test_mistakes_are_one_clear_message(tmp_path: Path, rows: Any, batches: Any) -> None:
    rows(1).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"saved\[train\] has no column 'text'.*known: image, caption, label"):
        len(HF(path=f"{tmp_path}/saved", **pair(text="text")))
    with pytest.raises(ValueError, match=r"has no column 'text'"):
        batches(HF(path=f"{tmp_path}/saved", **pair(text="text"), streaming=True, samples=1), 1)
    data = HF(path=f"{tmp_path}/none", samples=5)
    assert len(data) == 5
    assert "no folder" in (data.missing() or "")
    with pytest.raises(ValueError, match=r"no folder"):
        data.batches(0, None)  # type: ignore[arg-type]


def test_a_plan_does_not_ask_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: 1 / 0)
    data = HF(path="nlphuji/flickr30k", samples=31_014)
    assert len(data) == 31_014
    assert data.missing() is None
    with pytest.raises(ValueError, match=r"data.path=nlphuji/flickr30k \(no folder here, so looked up on the hub\)"):
        data.sample(0, None)  # type: ignore[arg-type]
