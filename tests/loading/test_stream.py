"""Streaming: every part once a pass, no two workers on one part, bad samples counted, a resume near where it was."""

import gzip
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_pairs import pair, picture, write

from workbench.data.shards import Shards
from workbench.loading.feed import Feed
from workbench.loading.stream import shuffled
from workbench.types import Batch

TARS, EACH = 6, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(TARS):
        members: dict[str, bytes] = {}
        for n in range(EACH * shard, EACH * (shard + 1)):
            members |= {f"{n}.png": picture(n), f"{n}.txt": f"number {n}".encode()}
        write(tmp_path / f"{shard}.tar", members)
    return tmp_path


def to_tensor(raw: Any) -> torch.Tensor:
    if isinstance(raw, str):
        return torch.tensor([float(raw.split()[-1])])
    return torch.tensor([float(raw.getpixel((0, 0))[0])])


def shards(folder: Path, **options: Any) -> Shards:
    return Shards(**({"path": f"{folder}/*.tar", "streaming": True, "samples": TARS * EACH, "buffer": 5} | options))


def stream(data: Shards, number: int, start: int = 0, **changes: Any) -> list[Batch]:
    feed = Feed(**({"transforms": {"image": to_tensor, "text": to_tensor}, "batch": 4, "seed": 3} | changes))
    return list(islice(data.batches(start, feed), number))


def numbers(batches: list[Batch]) -> list[int]:
    assert all(torch.equal(b.inputs["image"], b.inputs["text"]) for b in batches)
    return [int(x) for b in batches for x in b.inputs["image"].flatten()]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_every_pair_comes_up_about_as_often_as_any_other(folder: Path, workers: int) -> None:
    passes = 5
    seen = Counter(numbers(stream(shards(folder), passes * TARS * EACH // 4, workers=workers)))
    assert len(seen) == TARS * EACH
    assert max(seen.values()) <= passes + 2


def test_passes_differ_and_the_seed_repeats_them(folder: Path) -> None:
    one, again = (numbers(stream(shards(folder), 24)) for _ in range(2))
    assert one == again
    assert one[:48] != one[48:]
    assert numbers(stream(shards(folder), 12, seed=4)) != one[:48]


def noise(_: Any) -> torch.Tensor:
    return torch.rand(2)


def test_every_view_in_every_pass_has_draws_of_its_own(folder: Path) -> None:
    batches = stream(shards(folder, **pair(views=2)), 24, transforms={"image": noise, "text": noise})
    draws = torch.cat([x.flatten() for batch in batches for x in batch.inputs.values()])
    assert len(draws.unique()) == len(draws) == 24 * 4 * 3 * 2


def test_which_caption_is_picked_changes_from_pass_to_pass(tmp_path: Path) -> None:
    captions = b"caption 0\ncaption 1\ncaption 2"
    for shard in range(2):
        members = {
            f"{n}{end}": content for n in range(8) for end, content in ((".png", picture(n)), (".txt", captions))
        }
        write(tmp_path / f"{shard}.tar", members)
    data = shards(tmp_path, samples=16, **pair(at_most=1, pick="random"))
    picked: dict[int, set[float]] = {}
    for batch in stream(data, 24):  # six passes
        for id, text in zip(batch.ids.tolist(), batch.inputs["text"].flatten().tolist(), strict=True):
            picked.setdefault(id, set()).add(text)
    assert len(picked) == 16
    assert sum(len(texts) > 1 for texts in picked.values()) > 12


def test_processes_read_different_tars(folder: Path) -> None:
    halves = [numbers(stream(shards(folder), 5, rank=r, world=2, batch=8)) for r in range(2)]
    assert not set(halves[0]) & set(halves[1])  # 20 of the 24 pairs of each


def test_a_resume_skips_whole_tars(folder: Path) -> None:
    data = shards(folder, buffer=1)  # no shuffling: the order of the tars shows
    whole = numbers(stream(data, 12))
    later = numbers(stream(data, 4, start=8))  # two thirds of a pass: four tars of six
    assert sorted(later) == sorted(whole[4 * EACH :])
    following = numbers(stream(data, 12, start=12))
    assert sorted(following) == sorted(range(TARS * EACH))
    assert [n // EACH for n in following[::EACH]] != [n // EACH for n in whole[::EACH]]


def test_bad_samples_and_damaged_tars_are_skipped_and_named(folder: Path) -> None:
    write(
        folder / "1.tar",
        {"8.png": picture(8), "8.txt": b"number 8", "9.png": b"junk", "9.txt": b"number 9", "10.png": picture(10)}
        | {"11.png": picture(11), "11.txt": b" "},
    )
    os.truncate(folder / "2.tar", 4 * 1024 + 100)  # four members, and part of the fifth
    (folder / "3.tar").write_bytes(gzip.compress((folder / "3.tar").read_bytes()))
    batches = stream(shards(folder), 40)
    assert set(numbers(batches)) == {*range(9), 16, 17, *range(32, 48)}
    names = {s.name.removeprefix(f"{folder}/"): s.reason for b in batches for s in b.skipped}
    assert names.keys() == {"1.tar: 9.png", "1.tar: 10.png", "1.tar: 11.png", "2.tar", "3.tar"}
    assert names["1.tar: 10.png"].startswith("no .txt beside it: streaming needs")
    assert "cut off" in names["2.tar"]
    assert "compressed" in names["3.tar"]


def test_fewer_tars_than_readers_is_an_error_not_a_hang(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"reads 6 parts .* with 8 readers .*parallel.workers=3 or less"):
        stream(shards(folder), 1, workers=4, world=2)
    with pytest.raises(ValueError, match="no tar matches"):
        stream(shards(folder, path=f"{folder}/none/*.tar"), 1)
    with pytest.raises(ValueError, match=r"set data.samples"):
        shards(folder, samples=None)


@pytest.mark.slow
@pytest.mark.parametrize("content", [{}, {f"{n}.png": b"junk" for n in range(30)}])
def test_tars_without_a_usable_pair_are_one_message(tmp_path: Path, content: dict[str, bytes]) -> None:
    write(tmp_path / "a.tar", content)
    with pytest.raises(ValueError, match=r"^(streaming found no sample|20 samples in a row cannot be used)"):
        stream(shards(tmp_path), 1, workers=1)


def test_shuffling_loses_nothing_and_reaches_as_far_as_the_buffer() -> None:
    def source() -> Iterator[int]:
        yield from range(100)

    out = list(shuffled(source(), 10, np.random.default_rng()))
    assert sorted(out) == list(range(100))
    assert out != list(range(100))
    assert all(value < place + 10 or place >= 90 for place, value in enumerate(out))
