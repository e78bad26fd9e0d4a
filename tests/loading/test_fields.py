"""Fields of every kind from every source: read, missing, chosen, held out; bad input of each kind is one message."""

import io
import json
import struct
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_pairs import picture

from workbench.data.csv import CSV
from workbench.data.folder import Folder
from workbench.data.hf import HF
from workbench.data.json import JSON
from workbench.data.parquet import Parquet
from workbench.data.shards import Shards
from workbench.errors import BadSample
from workbench.loading.feed import Feed
from workbench.loading.fields import Fields
from workbench.loading.labels import Label
from workbench.loading.samples import Samples

soundfile = pytest.importorskip("soundfile")
RATE = 8000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def wav(levels: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, levels, rate, subtype=subtype, format="WAV")
    return out.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def row(n: int) -> dict[str, Any]:
    """Sample n as files: what it holds can be told from n. Each third lacks its sound, each fourth its text."""
    return {
        "jpg": picture(n),
        "txt": None if n % 4 == 3 else f"text {n}",
        "wav": None if n % 3 == 2 else wav(np.full(50 + n, n / 100, np.float32)),
        "npy": npy(np.arange(3) + n),
        "frames.npy": npy(np.full((2 + n, 2), n, np.float64)),
    }


ROWS = [row(n) for n in range(12)]
FIELDS = {
    "image": {"views": 2},
    "text": {},
    "sound": {"kind": "audio", "seconds": 0.01, "rate": RATE},
    "sensor": {"kind": "vector"},
    "face": {"kind": "sequence", "at_most": 5},
}
COLUMNS = dict(zip(FIELDS, ("jpg", "txt", "wav", "npy", "frames.npy"), strict=True))


def fields(**where: str | list[str]) -> dict[str, Any]:
    """The five fields, read from where a source has them."""
    return {"fields": Fields.parse({name: {**said, "from": where[name]} for name, said in FIELDS.items()})}


def write_tar(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    with tarfile.open(path, "w") as tar:
        for n, cells in enumerate(rows):
            for ending, content in cells.items():
                if content is not None:
                    info = tarfile.TarInfo(f"{n:03}.{ending}")
                    content = content.encode() if isinstance(content, str) else content
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return str(path)


def shards(folder: Path, **more: Any) -> Samples:
    return Shards(path=write_tar(folder / "0.tar"), **fields(**COLUMNS), **more)


def parquet(folder: Path, **more: Any) -> Samples:
    columns: dict[str, Any] = {name: [cells[ending] for cells in ROWS] for name, ending in COLUMNS.items()}
    columns["sensor"] = [(np.arange(3) + n).tolist() for n in range(12)]
    columns["face"] = [np.full((2 + n, 2), float(n)).tolist() for n in range(12)]
    about = [{"film": {"plot": text}} for text in columns.pop("text")]
    pq.write_table(pa.table({**columns, "about": about}), folder / "0.parquet")
    where = {name: name for name in COLUMNS} | {"text": "about.film.plot"}
    return Parquet(path=str(folder / "0.parquet"), **fields(**where), **more)


def hf(folder: Path, **more: Any) -> Samples:
    columns: dict[str, Any] = {name: [cells[ending] for cells in ROWS] for name, ending in COLUMNS.items()}
    columns["sensor"] = [(np.arange(3) + n).tolist() for n in range(12)]
    columns["sound"] = [None if sound is None else {"bytes": sound, "path": None} for sound in columns["sound"]]
    datasets.Dataset.from_dict(columns).save_to_disk(folder / "saved")
    return HF(path=str(folder / "saved"), **fields(**{name: name for name in COLUMNS}), **more)


def files(folder: Path) -> None:
    for n, cells in enumerate(ROWS):
        for ending, content in cells.items():
            if content is not None:
                file = folder / f"{n:03}.{ending}"
                file.write_bytes(content.encode() if isinstance(content, str) else content)


def csv(folder: Path, **more: Any) -> Samples:
    files(folder)
    lines = ["picture,says,sound,a,b,c,face"]
    for n, cells in enumerate(ROWS):
        sound = f"{n:03}.wav" if cells["wav"] else ""
        lines.append(f"{n:03}.jpg,{cells['txt'] or ''},{sound},{n},{n + 1},{n + 2},{n:03}.frames.npy")
    (folder / "list.csv").write_text("\n".join(lines))
    where = {"image": "picture", "text": "says", "sound": "sound", "sensor": ["a", "b", "c"], "face": "face"}
    return CSV(path=str(folder / "list.csv"), **fields(**where), **more)


def jsonl_rows() -> list[str]:
    return [
        json.dumps(
            {
                "file_name": f"{n:03}.jpg",
                "about": {"plot": cells["txt"]},
                "sound": {"path": f"{n:03}.wav"} if cells["wav"] else None,
                "sensor": [n, n + 1, n + 2],
                "face": f"{n:03}.frames.npy",
            }
        )
        for n, cells in enumerate(ROWS)
    ]


IN_JSON = {"image": "file_name", "text": "about.plot", "sound": "sound", "sensor": "sensor", "face": "face"}


def in_json(folder: Path, **more: Any) -> Samples:
    files(folder)
    (folder / "list.jsonl").write_text("\n".join(jsonl_rows()))
    return JSON(path=str(folder / "list.jsonl"), **fields(**IN_JSON), **more)


def metadata(folder: Path, **more: Any) -> Samples:
    (folder / "data").mkdir()
    files(folder / "data")
    (folder / "data" / "metadata.jsonl").write_text("\n".join(jsonl_rows()))
    return Folder(path=str(folder / "data"), **fields(**IN_JSON), **more)


def beside(folder: Path, **more: Any) -> Samples:
    (folder / "data").mkdir()
    files(folder / "data")
    return Folder(path=str(folder / "data"), **fields(**COLUMNS), **more)


SOURCES: list[Callable[..., Samples]] = [shards, parquet, hf, csv, in_json, metadata, beside]


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


def vectors(folder: Path, cells: list[Any], **more: Any) -> Samples:
    """Texts with vectors, in lines of JSON."""
    lines = [json.dumps({"text": f"text {n}", "x": cell, **more}) for n, cell in enumerate(cells)]
    (folder / "list.jsonl").write_text("\n".join(lines))
    said = {"text": {"from": "text"}, "x": {"kind": "vector", "from": "x"}}
    return JSON(path=str(folder / "list.jsonl"), fields=Fields.parse(said), max_bad=99)


def why(data: Samples, index: int) -> str:
    with pytest.raises(BadSample) as caught:
        data.sample(index, np.random.default_rng(0))
    return caught.value.reason


class Runs:
    """Writes a file when it is opened as a pickle."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.file, "opened"))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ([1, 2], "a vector of 2 numbers, where others have 3"),
        ([[1, 2, 3]], "is of shape 1 x 3, and a vector is a row of numbers"),
        ([1, 2, "a"], "not numbers"),
        ([1, None, 3], "not a list of numbers, but None"),
        ([1, 2, float("nan")], "holds nan"),
        ([1, 2, 1e300], "holds inf"),
        ("[1, 2, x]", "holds more than numbers"),
        (True, "a vector of 1 numbers"),
        (None, "no vector: its cell is empty"),
        ([], "no vector: its cell is empty"),
        ("none.npy", "No such file"),
        ("https://a.b/c.npy", "is an address"),
    ],
)
def test_a_vector_that_is_none_is_a_bad_sample(tmp_path: Path, cell: Any, reason: str) -> None:
    assert reason in why(vectors(tmp_path, [[1, 2, 3], cell]), 1)


def header(shape: str, dtype: str = "<f8") -> bytes:
    """A .npy whose header says this shape, with 24 bytes behind it."""
    said = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + bytes(24)


def test_a_npy_is_read_with_limits_and_no_pickle_is_opened(tmp_path: Path) -> None:
    trap = tmp_path / "opened"
    bad = {
        "objects": (npy(np.array([Runs(trap)]), allow_pickle=True), "is a pickle and is not opened"),
        "frames": (header("(1000000000, 3)"), "says 1000000000 x 3 numbers of float64, and which holds 24 bytes"),
        "overflow": (header("(4294967296, 4294967296)"), "holds 24 bytes"),
        "negative": (header("(-3,)"), "holds 24 bytes"),
        "texts": (npy(np.array(["a", "b"])), "and not of real numbers"),
        "complex": (npy(np.array([1j])), "and not of real numbers"),
        "short": (npy(np.arange(3.0))[:-5], "which holds 19 bytes"),
        "code": (header("().__class__"), "not a .npy that can be read"),
        "cut": (b"\x93NUMPY\x01", "not a .npy that can be read"),
        "html": (b"<html>", "not a .npy that can be read"),
        "nan": (npy(np.array([np.nan])), "holds nan"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / f"{name}.npy").write_bytes(content)
    (tmp_path / "good.npy").write_bytes(npy(np.arange(3.0)))
    data = vectors(tmp_path, ["good.npy", *(f"{name}.npy" for name in bad)])
    assert data.sample(0, np.random.default_rng(0)).inputs["x"][0].tolist() == [0, 1, 2]
    for place, (name, (_, reason)) in enumerate(bad.items(), 1):
        assert reason in why(data, place), name
    assert not trap.exists()


def test_a_fortran_npy_keeps_its_rows_and_other_numbers_become_float32(tmp_path: Path) -> None:
    frames = np.arange(6, dtype=np.int16).reshape(3, 2)
    (tmp_path / "a.npy").write_bytes(npy(np.asfortranarray(frames)))
    said = {"text": {"from": "text"}, "x": {"kind": "sequence", "from": "x"}}
    (tmp_path / "list.jsonl").write_text('{"text": "a", "x": "a.npy"}\n{"text": "b", "x": [7, 8]}')
    data = JSON(path=str(tmp_path / "list.jsonl"), fields=Fields.parse(said))
    (x,) = data.sample(0, np.random.default_rng(0)).inputs["x"]
    assert x.dtype == torch.float32
    assert x.tolist() == frames.tolist()
    assert "frames have 1 numbers, where others have 2" in why(data, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"RIFF\x24\x00\x00\x00WAVEjunk", "not a sound that can be read"),
        (b"<html>not found</html>", "a page of HTML"),
        (wav(np.zeros(0)), "0 samples long"),
        (wav(np.zeros((20, 8))), "8 channels: mix it"),
        (wav(np.array([0, np.nan, 0.5])), "holds nan"),
        (wav(np.array([0, np.inf])), "holds inf"),
        (wav(np.zeros(9), 44100)[:30], "not a sound that can be read"),
    ],
    ids=["junk", "HTML", "nothing", "8 channels", "NaN", "infinity", "cut"],  # the bytes hold the time of their making
)
def test_a_sound_that_is_none_is_a_bad_sample(tmp_path: Path, content: bytes, reason: str) -> None:
    rows = [{"txt": "good", "wav": wav(np.zeros(9))}, {"txt": "bad", "wav": content}]
    said = {"text": {}, "sound": {"kind": "audio"}}
    data = Shards(path=write_tar(tmp_path / "0.tar", rows), fields=Fields.parse(said), max_bad=9)
    data.sample(0, np.random.default_rng(0))
    assert reason in why(data, 1)


def test_two_channels_are_their_mean_and_hours_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"txt": "a", "wav": wav(np.array([[0.5, 0.25], [1, 0]]))}]
    data = Shards(path=write_tar(tmp_path / "0.tar", rows), fields=Fields.parse({"text": {}, "audio": {}}))
    assert data.sample(0, np.random.default_rng(0)).inputs["audio"][0].waveform.tolist() == [0.375, 0.5]
    monkeypatch.setattr("workbench.loading.sounds.MOST_SAMPLES", 3)
    assert "a sound of 2 samples in 2 channels, more than 3 in all" in why(data, 0)


def test_soundfile_is_asked_for_by_the_name_of_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"pip install 'multimodal-workbench\[audio\]'"):
        len(shards(tmp_path))


def test_one_modality_is_a_bad_sample_and_so_is_one_without_what_is_required(tmp_path: Path) -> None:
    rows = [{"jpg": picture(1), "txt": "a"}, {"jpg": picture(2), "wav": wav(np.zeros(9)), "txt": " "}]
    rows += [{"jpg": picture(3), "txt": ""}]
    said: dict[str, Any] = {"image": {}, "text": {}, "audio": {}}
    path = write_tar(tmp_path / "0.tar", rows)
    data = Shards(path=path, fields=Fields.parse(said), max_bad=9)
    assert [len(items) for items in data.sample(1, np.random.default_rng(0)).inputs.values()] == [1, 0, 1]
    assert why(data, 2) == "has only its image, of image, text, audio: a sample has two at least"
    said["text"] = {"required": True}
    data = Shards(path=path, fields=Fields.parse(said), max_bad=9)
    assert why(data, 1) == "no caption ('text' is required)"


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


def test_equal_ids_are_positives_and_on_one_side_of_a_share(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{n}", "x": [n], "film": f"film {n % 10}"}) for n in range(50)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    said = Fields.parse({"text": {"from": "text"}, "x": {"kind": "vector"}})
    path = str(tmp_path / "list.jsonl")
    data = JSON(path=path, fields=said, id="film", validation="20 %", splits={"test": "10%"})
    films = {}
    for name in ("train", "validation", "test"):
        items = data.split(name).items["x"]
        films[name] = {int(x[0]) % 10 for x in items.raw}
        groups = {(int(x[0]) % 10, i) for x, i in zip(items.raw, items.ids.tolist(), strict=True)}
        assert len(groups) == len(films[name])
    assert [len(found) for found in films.values()] == [7, 2, 1]
    assert set.union(*films.values()) == set(range(10))
    ids = [data.sample(n, np.random.default_rng(0)).id for n in range(len(data))]
    assert len(data) == 35
    assert len(set(ids)) == 7
    again = JSON(path=path, fields=said, id="film", validation="20 %", splits={"test": "10%"})
    assert [x.tolist() for x in again.split("test").items["x"].raw] == [
        x.tolist() for x in data.split("test").items["x"].raw
    ]
    with pytest.raises(ValueError, match=r"validation: 1 % of 10 ids leave none for validation"):
        len(JSON(path=path, fields=said, id="film", validation="1 %"))
    with pytest.raises(ValueError, match="leaves nothing on one side"):
        JSON(path=path, fields=said, validation="100 %")


def test_labels_are_classes_several_of_them_or_numbers(tmp_path: Path) -> None:
    genres = [["war", "love"], ["love"], [], ["sport", "love"]]
    rows = [
        {"text": f"t{n}", "x": [n], "genres": genres[n], "kind": n % 2, "year": [1990, None, "2001", 3.5][n]}
        for n in range(4)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text(json.dumps({**rows[0], "genres": ["opera", "war"], "kind": "other"}))
    (tmp_path / "classes.txt").write_text("a_cat\na dog\n")
    data: Any = JSON(
        path=str(tmp_path / "train.jsonl"),
        splits={"test": str(tmp_path / "test.jsonl")},
        fields=Fields.parse({"text": {"from": "text"}, "x": {"kind": "vector"}}),
        labels={
            "genre": Label.model_validate({"from": "genres", "many": True}),
            "kind": Label.model_validate({"from": "kind", "classes": str(tmp_path / "classes.txt")}),
            "year": Label.model_validate({"from": "year", "number": True}),
        },
    )
    train, test = data.split("train"), data.split("test")
    assert train.classes["genre"].names == ("love", "sport", "war")
    assert train.classes["kind"].prompts == (("a cat",), ("a dog",))
    for items in train.items.values():
        assert items.targets["genre"].int().tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
        assert items.targets["kind"].tolist() == [0, 1, 0, 1]
        assert items.targets["year"].nan_to_num(-1).tolist() == [1990, -1, 2001, 3.5]
    assert test.items["text"].targets["genre"].int().tolist() == [[0, 0, 1]]
    assert test.items["text"].targets["kind"].tolist() == [-1]
    assert not data.sample(0, np.random.default_rng(0)).targets


def test_rows_of_one_list_are_splits(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{n}", "x": [n], "set": "abc"[n % 3]}) for n in range(9)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    said = Fields.parse({"text": {"from": "text"}, "x": {"kind": "vector"}})
    data = JSON(
        path=str(tmp_path / "list.jsonl"),
        fields=said,
        where={"set": "a"},
        splits={"b": {"set": "b"}, "c": {"set": "c"}},
    )
    assert [[int(x) for x in data.split(name).items["x"].raw] for name in ("train", "b", "c")] == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5, 8],
    ]
    with pytest.raises(ValueError, match=r"no split 'd' \(there are: b, c\)"):
        data.split("d")


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


def test_ids_and_labels_that_cannot_be_read_are_of_bad_samples_or_unknown(tmp_path: Path) -> None:
    said = [b'{"film": "%d", "kind": "b"}' % (n // 2) for n in range(8)]
    said[5:7] = b"{broken", b"{}"
    path = write_tar(tmp_path / "0.tar", [{"jpg": picture(n), "txt": f"text {n}", "json": said[n]} for n in range(8)])
    pair = Fields.parse({"image": {}, "text": {}})
    whole = Shards(path=path, fields=pair, id="json:film", max_bad=9)
    assert "its id cannot be read" in why(whole, 5)
    found = [whole.sample(n, np.random.default_rng(0)).id for n in (0, 1, 2, 3, 4, 6, 7)]
    assert [found[0] == found[1], found[2] == found[3], len(set(found))] == [True, True, 5]
    divided = Shards(path=path, fields=pair, id="json:film", max_bad=9, validation="40 %")
    assert len(divided) + len(divided.split("validation").items["image"]) == 8
    labels = {"kind": Label.model_validate("json:kind")}
    kinds = Shards(path=path, fields=pair, labels=labels, max_bad=9).split("train").items["image"].targets["kind"]
    assert kinds.tolist() == [0, 0, 0, 0, 0, -1, -1, 0]
