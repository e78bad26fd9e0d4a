"""The comparison of loaders: both read the tars that were made, and the table and the file say what was measured."""

import csv
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from workbench.bench import loader, loader_shards
from workbench.data.emoji import FILES, PACKAGED
from workbench.data.shards import Shards


@pytest.mark.slow
def test_photos_are_photographs_with_captions(tmp_path: Path) -> None:
    data = Shards(path=loader_shards.photos(tmp_path, 9), validation=None)
    assert len(data) == 9
    sample = data.sample(5, np.random.default_rng(0))
    image: Image.Image = sample.inputs["image"][0]
    assert image.size == (500, 375)
    assert np.asarray(image).std() > 20
    assert 6 <= len(sample.inputs["text"][0].split()) < 15
    assert 20_000 < len(data.train.cells(5, "image")[0]) < 200_000


@pytest.mark.slow
def test_the_emoji_are_few_tars_of_one_text_each(tmp_path: Path) -> None:
    data = Shards(path=loader_shards.emoji(tmp_path), validation=None)
    drawings = pq.read_table(PACKAGED / FILES["train"])
    assert len(data) == len(drawings)
    assert len(list(tmp_path.glob("train-*.tar"))) == loader_shards.TARS
    concepts = pq.read_table(PACKAGED / "concepts.parquet")
    texts = dict(zip(concepts["concept"].to_pylist(), concepts["texts"].to_pylist(), strict=True))
    for index in (0, 5000, len(data) - 1):
        assert data.train.cells(index, "image")[0] == drawings["image"][index].as_py()
        assert data.train.cells(index, "text") == texts[drawings["concept"][index].as_py()][:1]


@pytest.mark.slow
@pytest.mark.parametrize("augment", list(loader.AUGMENT))
def test_our_loader_gives_what_theirs_does(tmp_path: Path, augment: str) -> None:
    tars, case = loader_shards.photos(tmp_path, 12), loader.Case("photos", augment, 0, 4, 64)
    for make in (loader.load_ours, loader.load_ours_with_their_transform):
        batch = next(make(tars, case, 0))
        assert batch.inputs["image"].shape == (4, 1, 3, 64, 64)
        assert batch.inputs["text"].shape == (4, 1, 77)
    if augment == "clip":
        shown = next(loader.load_ours_with_their_transform(tars, case, 0)).inputs["image"]
        assert shown.is_floating_point()
        assert 0.2 < shown.std() < 2


@pytest.mark.slow
def test_theirs_reads_the_same_tars(tmp_path: Path) -> None:
    if complaint := loader.find_missing_peer():
        pytest.skip(complaint)
    tars, case = loader_shards.photos(tmp_path, 8), loader.Case("photos", "clip", 0, 4, 64)
    theirs = list(islice(loader.load_theirs(tars, case, 0), 2))
    ours = list(islice(loader.load_ours(tars, case, 0), 2))
    assert all(images.shape == (4, 3, 64, 64) for images, _ in theirs)
    read = {tuple(row) for _, texts in theirs for row in texts.tolist()}
    assert len(read) == 8
    assert read == {tuple(row) for batch in ours for row in batch.inputs["text"][:, 0].tolist()}


@pytest.mark.slow
def test_the_command_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(tars: str, case: loader.Case, seed: int):
        return loader.load_ours_with_their_transform(tars, case, seed)

    monkeypatch.setattr(loader, "LOADERS", {"open_clip": slow, "workbench": loader.load_ours})
    monkeypatch.setattr(loader, "find_missing_peer", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    small = ["--rounds", "2", "--seconds", "0.01", "--workers", "0", "--batch", "4", "--photos", "8"]
    one = ["--shards", "photos", "--augment", "clip"]
    done = CliRunner().invoke(loader.main, [*small, *one, "--csv", str(tmp_path / "new" / "l.csv")])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "new" / "l.csv").open()))
    assert [(row["round"], row["loader"]) for row in rows] == [
        ("0", "open_clip"), ("0", "workbench"), ("1", "workbench"), ("1", "open_clip"),
    ]  # fmt: skip
    assert all(int(row["images"]) >= 4 and float(row["seconds"]) >= 0.01 for row in rows)
    assert "webdataset" in rows[0]["versions"]
    assert "| photos | clip | 0 | open_clip |" in done.stdout
    ratios = [float(rows[a]["images"]) / float(rows[a]["seconds"]) for a in range(4)]
    line = next(line for line in done.stdout.splitlines() if "| workbench |" in line)
    each = map(float, line.split("|")[7].split())
    for shown, ratio in zip(each, (ratios[1] / ratios[0], ratios[2] / ratios[3]), strict=True):
        # of each time, .01 seconds or more, the file has a 10^-4; of a ratio, the table a hundredth
        assert shown == pytest.approx(ratio, abs=0.005 + 0.0101 * ratio)


def test_a_peer_that_cannot_run_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "version", lambda name: "1.0.2")
    done = CliRunner().invoke(loader.main, [])
    assert done.exit_code == 1
    assert "webdataset up to 0.2.86, here is 1.0.2: pip install" in done.output
