"""Fields of every kind from every source: read, missing, chosen, the same with any number of workers."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_sources import COLUMNS, FIELDS, RATE, ROWS, SOURCES, fields, hf, shards, vectors, wav, write_tar

from workbench.data.json import JSON
from workbench.data.shards import Shards
from workbench.loading.feed import Feed
from workbench.loading.fields import Fields
from workbench.loading.samples import Samples

pytestmark = pytest.mark.usefixtures("cache")


def assert_is(n: int, inputs: dict[str, list[Any]]) -> None:
    assert [image.getpixel((0, 0))[0] for image in inputs["image"]] == [n, n]
    assert inputs["text"] == ([] if n % 4 == 3 else [f"text {n}"])
    assert len(inputs["sound"]) == (n % 3 != 2)
    for waveform, rate in inputs["sound"]:
        assert rate == RATE
        assert torch.equal(waveform, torch.full((50 + n,), n / 100))
    assert [x.tolist() for x in inputs["sensor"]] == [[n, n + 1, n + 2]]
    assert [x.tolist() for x in inputs["face"]] == [[[n, n]] * (2 + n)]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_reads_every_kind(tmp_path: Path, source: Callable[..., Samples]) -> None:
    data = source(tmp_path)
    assert len(data) == 12
    for n in range(12):
        assert_is(n, data.sample(n, np.random.default_rng(0)).inputs)
    modalities = data.modalities
    assert {name: (m.kind, m.shape, m.count, m.rate) for name, m in modalities.items()} == {
        "image": ("image", (), 2, 0),
        "text": ("text", (), 1, 0),
        "sound": ("audio", (80,), 1, RATE),
        "sensor": ("vector", (3,), 1, 0),
        "face": ("sequence", (5, 2), 1, 0),
    }
    filled = {name: data.train.filled(name).tolist() for name in modalities}
    assert filled["text"] == [n % 4 != 3 for n in range(12)]
    assert filled["sound"] == [n % 3 != 2 for n in range(12)]
    assert filled["image"] == filled["sensor"] == filled["face"] == [True] * 12
    assert len({data.train.name(n) for n in range(12)}) == 12


@pytest.mark.parametrize("source", [shards, hf])
def test_a_stream_reads_every_kind(tmp_path: Path, source: Callable[..., Samples]) -> None:
    data: Any = source(tmp_path, streaming=True, samples=12)
    found = [data.decode(raw, n, np.random.default_rng(0)) for n, raw in enumerate(data.read(0))]
    assert len(found) == 12
    for n, sample in enumerate(found):
        assert_is(n, sample.inputs)
    assert data.modalities["face"].shape == (5, 2)


@pytest.mark.parametrize("source", SOURCES)
def test_a_held_out_split_has_what_there_is_and_links_it_by_ids(tmp_path: Path, source: Callable[..., Samples]) -> None:
    split = source(tmp_path, validation="25 %").split("validation")
    levels = [image.getpixel((0, 0))[0] for image in split.items["image"].raw]
    assert len(levels) == 3
    level = dict(zip(split.items["image"].ids.tolist(), levels, strict=True))
    texts = split.items["text"]
    assert [f"text {level[i]}" for i in texts.ids.tolist()] == list(texts.raw)
    assert [x[0].item() for x in split.items["sensor"].raw] == levels
    sounds = split.items["sound"]
    assert [len(sound.waveform) - 50 for sound in sounds.raw] == [level[i] for i in sounds.ids.tolist()]
    assert sorted(level.values()) == levels


def to_tensor(kind: str) -> Callable[[Any], torch.Tensor]:
    length = {"sound": lambda raw: raw[0][:5], "face": lambda raw: raw[:2], "sensor": lambda raw: raw}
    return length.get(kind, lambda raw: torch.ones(2))


def read_image(raw: Any) -> torch.Tensor:
    return torch.rand(2) + raw.getpixel((0, 0))[0]


def read_text(raw: str) -> torch.Tensor:
    return torch.tensor([len(raw), torch.rand(())])


def read_sound(raw: Any) -> torch.Tensor:
    return raw.waveform[:40] * torch.rand(())


def read_numbers(raw: torch.Tensor) -> torch.Tensor:
    return raw.flatten()[:2] + torch.rand(())


@pytest.mark.slow
def test_workers_and_a_start_in_between_change_nothing(tmp_path: Path) -> None:
    """Order, choice and what transforms draw are functions of (seed, epoch, sample, field), for every kind."""
    data = shards(tmp_path)
    transforms = dict(zip(FIELDS, (read_image, read_text, read_sound, read_numbers, read_numbers), strict=True))
    whole = list(islice(data.batches(0, Feed(transforms, 4, seed=9)), 7))
    for start, workers in ((0, 2), (5, 0), (4, 2)):
        again = data.batches(start, Feed(transforms, 4, seed=9, workers=workers))
        for before, after in zip(whole[start:], islice(again, 7 - start), strict=True):
            assert before.ids.equal(after.ids)
            for name in FIELDS:
                assert before.inputs[name].equal(after.inputs[name])
                assert before.valid[name].equal(after.valid[name])


def test_a_batch_without_a_rare_modality_is_one(tmp_path: Path) -> None:
    """Row 11 alone has a sound."""
    rows = [{**cells, "wav": wav(np.ones(9)) if n == 11 else None} for n, cells in enumerate(ROWS)]
    data = Shards(path=write_tar(tmp_path / "0.tar", rows), **fields(**COLUMNS))
    feed = Feed({name: to_tensor(name) for name in FIELDS}, batch=3, seed=5)
    batches = [batch for batch, _ in zip(data.batches(0, feed), range(4), strict=False)]
    assert sorted(batch.valid["sound"].sum().item() for batch in batches) == [0, 0, 0, 1]
    assert {tuple(batch.inputs["sound"].shape) for batch in batches} == {(3, 1, 5)}
    empty = next(batch for batch in batches if not batch.valid["sound"].any())
    assert not empty.inputs["sound"].any()


def test_a_stream_without_a_rare_modality_goes_on(tmp_path: Path) -> None:
    rows = [{**cells, "wav": wav(np.ones(9)) if n == 11 else None} for n, cells in enumerate(ROWS)]
    data = Shards(path=write_tar(tmp_path / "0.tar", rows), streaming=True, samples=12, buffer=1, **fields(**COLUMNS))
    feed = Feed({name: to_tensor(name) for name in FIELDS}, batch=3, seed=5)
    batches = list(islice(data.batches(0, feed), 4))
    assert [batch.valid["sound"].sum().item() for batch in batches] == [0, 0, 0, 1]
    assert {tuple(batch.inputs["sound"].shape) for batch in batches} == {(3, 1, 5)}


def test_soundfile_is_asked_for_by_the_name_of_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"pip install 'multimodal-workbench\[audio\]'"):
        len(shards(tmp_path))


def test_choices_of_a_field_do_not_hang_on_other_fields(tmp_path: Path) -> None:
    lines = [json.dumps({"text": list("abcdef"), "de": list("ghijkl"), "x": [n, 1]}) for n in range(8)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))

    def choices(**said: Any) -> list[dict[str, Any]]:
        data = JSON(path=str(tmp_path / "list.jsonl"), fields=Fields.parse(said))
        return [data.sample(n, np.random.default_rng((3, n))).inputs for n in range(8)]

    text = {"kind": "text", "at_most": 3}
    alone = choices(text={**text, "from": "text"}, x={"kind": "vector"})
    beside = choices(de=text, text={**text, "from": "text"}, x={"kind": "vector"})
    other = choices(de=text, x={"kind": "vector"})
    assert [a["text"] for a in alone] == [b["text"] for b in beside]
    assert [a["de"] for a in other] == [b["de"] for b in beside]
    places = [[ord(c) - ord("a") for c in b["text"]] == [ord(c) - ord("g") for c in b["de"]] for b in beside]
    assert sum(places) < 4  # one in 120 by chance


def test_items_of_one_field_are_read_by_themselves(tmp_path: Path) -> None:
    data = vectors(tmp_path, [[1, 2], None, [1, float("nan")], [3, 4], [5, 6]])
    assert [x.tolist() for x in data.raw_items("x", 2)] == [[1, 2], [3, 4]]
    assert len(list(data.raw_items("x", 99))) == 3


def test_a_length_that_nobody_can_measure_is_asked_for(tmp_path: Path) -> None:
    said = {"text": {}, "x": {"kind": "vector"}}
    with pytest.raises(ValueError, match=r"no tar matches .* --set data.fields.x.dim=N"):
        _ = Shards(path=f"{tmp_path}/*.tar", fields=Fields.parse(said)).modalities
    named = {"text": {}, "x": {"kind": "vector", "dim": 7}}
    assert Shards(path=f"{tmp_path}/*.tar", fields=Fields.parse(named)).modalities["x"].shape == (7,)
