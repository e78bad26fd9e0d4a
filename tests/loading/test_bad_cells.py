"""Bad input of each kind is one bad sample with its reason: no traceback, no pickle, nobody's memory."""

import json
import struct
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_sources import header, npy, vectors, wav, why, write_tar
from small_pairs import picture

from workbench.data.json import JSON
from workbench.data.shards import Shards
from workbench.loading.feed import Feed
from workbench.loading.fields import Fields
from workbench.loading.labels import Label

pytestmark = pytest.mark.usefixtures("cache")


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


def test_a_npy_is_read_with_limits_and_no_pickle_is_opened(tmp_path: Path) -> None:
    trap = tmp_path / "opened"
    bad = {
        "objects": (npy(np.array([Runs(trap)]), allow_pickle=True), "is a pickle and is not opened"),
        "frames": (header("(1000000000, 3)"), "says 1000000000 x 3 numbers of float64, and which holds 24 bytes"),
        "overflow": (header("(4294967296, 4294967296)"), "holds 24 bytes"),
        "negative": (header("(-3,)"), "says (-3,), which is no shape"),
        "both negative": (header("(-3, -1)"), "says (-3, -1), which is no shape"),
        "truth": (header("(True, 3)"), "says (True, 3), which is no shape"),
        "records": (npy(np.zeros(3, [("a", "f4"), ("b", "i4")])), "and not of real numbers"),
        "dates": (npy(np.array(["2020-01-01"], "M8[D]")), "and not of real numbers"),
        "version": (b"\x93NUMPY\x03" + header("(3,)")[7:], "of version 3.0, and numbers need 1.0 or 2.0"),
        "nothing": (b"", "a file of 0 bytes"),
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


def with_rate(rate: int) -> bytes:
    """A wav whose header says another rate than it was made with."""
    content = bytearray(wav(np.zeros(9)))
    struct.pack_into("<I", content, content.index(b"fmt ") + 12, rate)
    return bytes(content)


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
        (wav(np.zeros(90))[:-200], "cut off: of 360 bytes 160 are there"),
        (b"", "a file of 0 bytes"),
        (with_rate(0), "not a sound that can be read"),
        (with_rate(1), "a sound of 1 samples a second, and between 50 and 1,000,000 are read"),
        (with_rate(2**31 - 1), "a sound of 2147483647 samples a second"),
        (wav(np.array([0.0, -1e30])), "a sound whose level is 1e+30"),
        (wav(np.array([0.0, 1e300]), subtype="DOUBLE"), "holds inf"),
    ],
    # the bytes hold the time of their making
    ids=[
        *("junk", "HTML", "nothing", "8 channels", "NaN", "infinity", "cut", "half", "0 bytes", "rate 0", "rate 1"),
        *("rate 2^31", "loud", "double"),
    ],
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


def test_a_wav_whose_writer_did_not_know_its_length_is_read(tmp_path: Path) -> None:
    """As a program writes it into a pipe."""
    content = bytearray(wav(np.full(9, 0.5)))
    struct.pack_into("<I", content, content.index(b"data") + 4, 2**32 - 1)
    path = write_tar(tmp_path / "0.tar", [{"txt": "a", "wav": bytes(content)}])
    data = Shards(path=path, fields=Fields.parse({"text": {}, "audio": {}}))
    assert data.sample(0, np.random.default_rng(0)).inputs["audio"][0].waveform.tolist() == [0.5] * 9


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (3, "is one number, and a sequence is of frames x numbers"),
        ([[1, 2], [3]], "lists of different lengths"),
        ([[[1, 2]]], "is of shape 1 x 1 x 2"),
        ([[]], "a sequence of no frames"),
        ({"frames": [1]}, "no .npy, but a block of frames: write {bytes: ...} or {path: ...}"),
    ],
)
def test_a_sequence_that_is_none_is_a_bad_sample(tmp_path: Path, cell: Any, reason: str) -> None:
    lines = [json.dumps({"text": "a", "x": each}) for each in ([[1, 2]], cell)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    said = Fields.parse({"text": {"from": "text"}, "x": {"kind": "sequence"}})
    assert reason in why(JSON(path=str(tmp_path / "list.jsonl"), fields=said, max_bad=9), 1)


@pytest.mark.parametrize(
    ("field", "cell", "reason"),
    [
        ("text", 3, "no caption: 'text' is 3"),
        ("text", [1.5, None], "no caption: 'text' is 1.5"),
        ("text", {"raw": "a"}, "no caption: 'text' is {'raw': 'a'}"),
        ("image", {"array": [0.5], "rate": 8}, "names no file: 'image' is {'array'"),
        ("image", 7, "names no file: 'image' is 7"),
    ],
)
def test_a_cell_of_json_that_no_field_can_hold_is_left_out_and_counted(
    tmp_path: Path, field: str, cell: Any, reason: str
) -> None:
    """With two other fields there, it was a missing modality, and nobody was told."""
    row = {"x": [1], "y": [2], "text": "a", "image": None}
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, (row, {**row, field: cell}))))
    said = Fields.parse({"x": {"kind": "vector"}, "y": {"kind": "vector"}, "text": {"from": "text"}, "image": {}})
    table = JSON(path=str(tmp_path / "list.jsonl"), fields=said, max_bad=9).train
    assert len(table) == 1
    (skipped,) = table.left_out
    assert reason in skipped.reason


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_bad_cells_of_every_kind_are_counted_once_by_two_workers(tmp_path: Path, streaming: bool) -> None:
    bad = {
        "jpg": (b"", picture(3)[:40], b"<svg/>"),
        "wav": (b"", wav(np.zeros((5, 8))), with_rate(1), b"\xff" * 99),
        "npy": (b"", header("(1000000000, 3)"), npy(np.array([{}]), allow_pickle=True)),
        "txt": (b"caf\xe9", b"a\0b"),
    }
    good = {"jpg": picture(1), "wav": wav(np.zeros(9)), "npy": npy(np.arange(3)), "txt": "text"}
    wrong = [{**good, ending: content} for ending, contents in bad.items() for content in contents]
    paths = [write_tar(tmp_path / f"{n}.tar", [{**good}, *wrong[n::2], {**good}]) for n in range(2)]
    said = Fields.parse({"image": {}, "audio": {}, "sensor": {"kind": "vector"}, "text": {}})
    more: dict[str, Any] = {"streaming": True, "samples": 16} if streaming else {}
    data = Shards(path=paths, fields=said, max_bad=99, **more)
    feed = Feed(dict.fromkeys(said, lambda raw: torch.zeros(2)), batch=4, seed=1, workers=2)
    skipped: set[tuple[str, str]] = set()
    for batch in islice(data.batches(0, feed), 40):
        skipped |= {(each.name, each.reason) for each in batch.skipped}
        assert all(there.all() for there in batch.valid.values())
        if len(skipped) == len(wrong):
            break
    assert len({name for name, _ in skipped}) == len(skipped) == len(wrong)
