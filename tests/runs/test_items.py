"""What people hand to a trained model: read as training reads it, or refused in one line that says what to write."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench.loading.decode import to_rgb
from workbench.runs.items import Reader
from workbench.types import Modality

IMAGE, TEXT, VECTOR = Modality("image"), Modality("text"), Modality("vector", (3,))


def pixels(picture: Image.Image) -> Tensor:
    """A stand-in for an encoder's transform: one size, RGB, floats."""
    return torch.from_numpy(np.array(to_rgb(picture).resize((4, 4)))).permute(2, 0, 1) / 255


def letters(text: str) -> Tensor:
    return torch.tensor([ord(c) for c in text[:2].ljust(2)])


PICTURES, TEXTS = Reader("photo", IMAGE, pixels), Reader("de", TEXT, letters)
VECTORS = Reader("sensor", VECTOR, lambda x: torch.as_tensor(x, dtype=torch.float32))


def drawn() -> Image.Image:
    return Image.fromarray(np.random.default_rng().integers(0, 256, (9, 7, 3), dtype=np.uint8))


def encoded(picture: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def test_a_picture_is_the_same_in_whatever_form_it_comes(tmp_path: Path) -> None:
    picture = drawn()
    file = tmp_path / "a picture.png"
    file.write_bytes(encoded(picture))
    forms = [picture, str(file), file, encoded(picture), np.array(picture), pixels(picture)]
    for inputs in (read(PICTURES, forms), read(PICTURES, tuple(forms)), read(PICTURES, iter(forms))):
        assert len(inputs) == len(forms)
        for i in range(len(forms)):
            assert torch.equal(inputs[i], pixels(picture)), forms[i]
    assert torch.equal(read(PICTURES, np.stack([np.array(picture)] * 2))[1], pixels(picture))
    gray = picture.convert("L")
    assert torch.equal(read(PICTURES, [np.array(gray)])[0], pixels(gray))


def test_tensors_are_model_inputs() -> None:
    x = torch.rand(5, 3, 4, 4)
    assert torch.equal(torch.stack(read(PICTURES, x)), x)
    assert read(PICTURES, x.double())[0].dtype == torch.float32
    raw = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    assert read(PICTURES, raw)[0].dtype == torch.uint8  # the encoder normalises bytes
    assert read(VECTORS, torch.ones(2, 3, dtype=torch.int64))[0].dtype == torch.float32
    assert torch.equal(read(VECTORS, np.eye(3))[1], torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(read(VECTORS, [[1, 2, 3]])[0], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(read(TEXTS, torch.tensor([[5, 6]]))[0], torch.tensor([5, 6]))


def test_items_are_read_when_they_are_asked_for() -> None:
    good, missing = PICTURES.items([drawn(), "no such file.png"])
    assert PICTURES.input(good).shape == (3, 4, 4)
    with pytest.raises(OSError, match=r"No such file.*no such file.png"):
        PICTURES.input(missing)


def read(reader: Reader, given: Any) -> list[Tensor]:
    """All model inputs of what is given."""
    items = reader.items(given)
    return list(items) if isinstance(items, Tensor) else [reader.input(item) for item in items]


def first(reader: Reader, given: Any) -> Callable[[], Any]:
    return lambda: read(reader, given)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (first(PICTURES, drawn()), r"photo: give a list of pictures, not one Image: write \[picture\]"),
        (first(PICTURES, "a.png"), r"photo: give a list of pictures, not one str: write \['a.png'\]"),
        (first(PICTURES, Path("a.png")), r"not one PosixPath"),
        (first(PICTURES, np.zeros((9, 7, 3), np.uint8)), r"not one ndarray \[9, 7, 3\] of uint8"),
        (first(PICTURES, torch.rand(3, 4, 4)), r"not one Tensor \[3, 4, 4\] of float32"),
        (first(PICTURES, None), r"not one NoneType"),
        (first(PICTURES, 7), r"not one int"),
        (first(PICTURES, []), r"photo: the list is empty"),
        (first(PICTURES, [None]), r"NoneType is no picture: give a PIL image, a path"),
        (first(PICTURES, [np.zeros((9, 7, 3))]), r"ndarray \[9, 7, 3\] of float64 is no picture"),
        (first(PICTURES, [b"no picture"]), r"not a picture that can be read \(10 bytes\)"),
        (first(PICTURES, [encoded(drawn())[:50]]), r"truncated|Truncated|broken"),
        (first(PICTURES, torch.rand(2, 3, 5, 5)), r"are tensors \[n, 3, 4, 4\], this one is \[2, 3, 5, 5\]"),
        (first(PICTURES, torch.rand(2, 4, 4, 3)), r"this one is \[2, 4, 4, 3\]"),
        (first(PICTURES, torch.zeros(2, 3, 4, 4, dtype=torch.int64)), r"of torch.float32, these are of torch.int64"),
        (first(TEXTS, "eine Katze"), r"de: give a list of strings, not one str: write \['eine Katze'\]"),
        (first(TEXTS, [3]), r"int is no text: give a string"),
        (first(TEXTS, [["a", "b"]]), r"list is no text"),
        (first(TEXTS, torch.rand(2, 2)), r"of torch.int64, these are of torch.float32"),
        (first(VECTORS, [[1.0, 2.0]]), r".*\[n, 3\], this one is \[1, 2\]"),
        (first(VECTORS, 3.0), r"sensor: give a list of vectors, not one float: write \[vector\]"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(attempt: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_an_own_transform_that_reads_nothing_plain_is_left_alone() -> None:
    def picky(item: Any) -> Tensor:
        return torch.as_tensor(item["numbers"])

    reader = Reader("own", VECTOR, picky)
    assert torch.equal(read(reader, [{"numbers": np.arange(2)}])[0], torch.arange(2))


def test_sounds_and_sequences_are_read_as_data_gives_them(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.full((6, 2), 0.5), 800)
    sound = Reader("speech", Modality("audio", (4,), rate=800), lambda raw: raw[0][:4] * raw[1] / 100)
    levels = torch.arange(6.0)
    stereo = torch.stack([levels, 3 * levels], 1)
    for given, expected in (
        ((levels, 200), levels),
        ((levels.tolist(), 200), levels),
        ((stereo.numpy(), 200), 2 * levels),
    ):
        assert sound.input(given).tolist() == (2 * expected[:4]).tolist()
    assert sound.input(levels[:4]).tolist() == [0, 1, 2, 3]  # a model input
    assert len(sound.items([(levels, 200)] * 3)) == 3
    for file in (tmp_path / "a.wav", str(tmp_path / "a.wav"), (tmp_path / "a.wav").read_bytes()):
        assert sound.input(file).tolist() == pytest.approx([4.0] * 4, abs=1e-3)
    frames = Reader("face", Modality("sequence", (4, 2)), lambda raw: torch.nn.functional.pad(raw, (0, 1, 0, 1))[:4])
    frames.example = None  # its transform is none that pads
    assert frames.input([[1.0, 2.0]]).tolist() == [[1, 2, 0], [0, 0, 0]]
    assert frames.input(np.ones((3, 2))).shape == (4, 3)
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(3, 2))
    assert frames.input(str(tmp_path / "a.npy"))[2].tolist() == [4, 5, 0]
    np.save(tmp_path / "b.npy", np.arange(3))
    assert VECTORS.input(tmp_path / "b.npy").tolist() == [0, 1, 2]
    np.save(tmp_path / "c.npy", np.array([{}]))
    with pytest.raises(ValueError, match="which is a pickle and is not opened"):
        VECTORS.input(tmp_path / "c.npy")
    assert sound.input((levels, np.int64(200))).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("audio", (torch.zeros(9), 800), r"give a list of sounds, not one tuple: write \[sound\]"),
        ("audio", torch.zeros(()), r"give a list of sounds, not one Tensor"),
        ("sequence", torch.zeros(3, 2), r"give a list of sequences, not one Tensor \[3, 2\]"),
        ("audio", [7], r"int is no sound: give a path, bytes, or \(waveform, rate\)"),
        ("audio", [b"no sound at all"], "not a sound that can be read"),
        ("audio", [(torch.zeros(8, 9), 800)], r"a sound of shape 8 x 9, and not one row of samples"),
        ("audio", [(torch.tensor([0.0, float("inf")]), 800)], "a sound that holds inf"),
        ("audio", [(torch.zeros(0), 800)], "a sound 0 samples long"),
        ("sequence", [torch.zeros(3, 5)], "it is 3 x 5, where the data declares frames x 2"),
        ("sequence", [[]], "it is 0, where"),
        ("sequence", [[[1.0, float("nan")]]], "holds nan"),
        ("sequence", [["a"]], "not numbers, but"),
    ],
)
def test_what_is_no_sound_and_no_sequence_is_said(kind: str, given: object, said: str) -> None:
    shapes = {"audio": (4,), "sequence": (4, 2)}
    reader = Reader("x", Modality(kind, shapes[kind], rate=800), lambda raw: torch.zeros(1))
    with pytest.raises(ValueError, match=said):
        reader.input(reader.items(given)[0])
