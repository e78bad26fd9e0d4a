"""webdataset tars by random access: complete pairs, several captions, held-out tars, one line when they are missing."""

import io
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pairs import pair, picture

from workbench.data.shards import Shards
from workbench.errors import BadSample, DataLost
from workbench.loading.feed import Feed
from workbench.loading.tar_index import list_members


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:03}.tar", "w") as tar:
            for i in range(5):
                n = 5 * shard + i
                add(tar, f"{n:06}.png", picture(n))
                add(tar, f"{n:06}.json", b"{}")
                if n != 3:
                    add(tar, f"{n:06}.txt", f"number {n}\n\nalso {n}\n".encode())
    return tmp_path


def test_pairs_come_with_all_their_captions(tars: Path) -> None:
    data = Shards(path=f"{tars}/*.tar", **pair(views=2, at_most=3))
    assert len(data) == 9  # the image without a text is no pair
    sample = data.sample(4, np.random.default_rng(0))
    level = sample.inputs["image"][0].getpixel((0, 0))[0]
    assert len(sample.inputs["image"]) == 2
    assert sorted(sample.inputs["text"]) == [f"also {level}", f"number {level}"]


def test_batches_run_through_the_feed_from_any_start(tars: Path) -> None:
    def tensor(raw: object) -> torch.Tensor:
        return torch.tensor([float(len(raw))]) if isinstance(raw, str) else torch.from_numpy(np.array(raw)).float()

    data = Shards(path=f"{tars}/*.tar", **pair(at_most=2))
    feed = Feed({"image": tensor, "text": tensor}, batch=4, seed=0)
    whole, later = list(islice(data.batches(0, feed), 5)), list(islice(data.batches(3, feed), 2))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(whole[3:], later, strict=True))
    assert whole[0].valid["text"].all()


def test_held_out_tars_are_the_validation_split(tars: Path) -> None:
    data = Shards(path=f"{tars}/000.tar", validation=f"{tars}/001.tar")
    split = data.split("validation")
    assert len(split.items["image"]) == 5
    assert split.items["text"].ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    with pytest.raises(ValueError, match="no split 'test'"):
        data.split("test")


def test_what_is_damaged_is_named(tars: Path) -> None:
    data, shard, rng = Shards(path=f"{tars}/*.tar"), tars / "001.tar", np.random.default_rng(0)
    assert len(data) == 9
    content = bytearray(shard.read_bytes())
    at = content.index(b"PNG")
    shard.write_bytes(content[:at] + b"GNP" + content[at + 3 :])
    with pytest.raises(BadSample, match=r"001.tar: 000005.png: not a picture that can be read"):
        data.sample(4, rng)
    shard.write_bytes(content[: at + 20])
    with pytest.raises(DataLost, match=r"001.tar has become shorter"):
        data.sample(4, rng)


def test_missing_and_broken_tars_are_named(tmp_path: Path) -> None:
    data = Shards(path=f"{tmp_path}/none/*.tar", samples=1000)
    assert len(data) == 1000
    assert "no tar matches" in (data.missing() or "")
    with pytest.raises(ValueError, match="no tar matches"):
        data.sample(0, np.random.default_rng(0))
    (tmp_path / "broken.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(ValueError, match=r"broken.tar is not a readable tar"):
        list_members(tmp_path / "broken.tar")
