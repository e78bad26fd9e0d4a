"""The TensorBoard callback: everything measured is there, pictures tell the truth, and neither can break a run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sensed
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from workbench.figures import embeddings
from workbench.figures.dashboards import layout
from workbench.recipe.schema import load_recipe, parse_recipe
from workbench.runs.train import train

COMPONENTS = '''
import torch
from PIL import Image
from torch import nn

from workbench.types import Features, Items, Modality, Sample, Split

COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "black": (0, 0, 0), "gold": (220, 180, 0)}


class Squares:
    """Squares of five colours and their names; `broken` has no held-out split."""

    def __init__(self, *, broken: bool = False):
        self.broken = broken
        self.modalities = {"image": Modality("image"), "text": Modality("text")}

    def __len__(self):
        return 40

    def sample(self, index, rng):
        name = list(COLOURS)[index % 5]
        return Sample({"image": [Image.new("RGB", (8, 8), COLOURS[name])], "text": [name]}, index % 5)

    def batches(self, start, feed):
        return feed.load(self, start)

    def split(self, name):
        if self.broken:
            raise ValueError("no such split here")
        images = [Image.new("RGB", (8, 8), COLOURS[list(COLOURS)[i % 5]]) for i in range(12)]
        texts = [word for colour in COLOURS for word in (colour, f"a {colour} square")]
        return Split({
            "image": Items(images, torch.arange(12) % 5),
            "text": Items(texts, torch.arange(10) // 2),
        })


class Linear(nn.Module):
    """Mean colour, or letter counts, through one layer."""

    has_tokens = False

    def __init__(self, modality, dim):
        super().__init__()
        self.kind, self.width = modality.kind, dim
        self.layer = nn.Linear(3 if modality.kind == "image" else 26, dim)

    def forward(self, x):
        z = self.layer(x)
        return Features(z=z, pooled=z)

    def transform(self, train):
        if self.kind == "image":
            return lambda image: torch.tensor(image.resize((1, 1)).getpixel((0, 0))) / 255
        return lambda text: torch.tensor([float(text.count(chr(97 + i))) for i in range(26)])
'''


def recipe_of_squares(folder: Path) -> dict[str, Any]:
    """A recipe on images and texts that trains in a blink."""
    file = folder / "squares.py"
    file.write_text(COMPONENTS)
    return {
        "name": "squares",
        "data": {"name": f"{file}:Squares"},
        "model": {"dim": 4, "encoders": {"image": f"{file}:Linear", "text": f"{file}:Linear"}},
        "objective": "clip",
        "train": {"for": "6 steps", "batch": 20, "lr": 0.01},
        "eval": {"every": "6 steps", "retrieval": {"k": [1]}},
        "checkpoint": {"every": "4 steps"},
        "parallel": {"workers": 0},
    }


@pytest.fixture
def squares(tmp_path: Path) -> dict[str, Any]:
    return recipe_of_squares(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A run on squares, and the arguments of each picture of texts that it drew."""
    folder, drawn = tmp_path_factory.mktemp("squares"), []
    draw = embeddings.retrieved_texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "retrieved_texts", lambda *a: (drawn.append(a), draw(*a))[1])
        train(parse_recipe(recipe_of_squares(folder)), folder / "run")
    return folder / "run", drawn


def read(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_scalars_are_the_metrics(run: Path) -> None:
    events = read(run)
    expected: dict[str, dict[int, float]] = {}
    for record in records(run):
        for name in record.keys() - {"step", "samples"}:
            expected.setdefault(name, {})[record["step"]] = record[name]
    assert set(events.Tags()["scalars"]) == set(expected)
    for name, values in expected.items():
        points = events.Scalars(name)
        assert [p.step for p in points] == sorted(values), name
        np.testing.assert_allclose([p.value for p in points], [values[p.step] for p in points], rtol=1e-6)


@pytest.mark.slow
def test_scalars_recipe_and_pictures(trained: tuple[Path, list[Any]]) -> None:
    run, _ = trained
    assert_scalars_are_the_metrics(run)
    events = read(run)
    pictures = ["similarity/image~text", "retrieval/image_to_text", "retrieval/text_to_image"]
    assert events.Tags()["images"] == pictures
    for tag in pictures:
        assert [image.step for image in events.Images(tag)] == [0, 6]
    (text,) = events.Tensors("recipe/text_summary")
    (written,) = text.tensor_proto.string_val
    assert written.decode() == f"```yaml\n{(run / 'recipe.yaml').read_text()}```"
    assert "custom_scalars__config__" in events.Tags()["tensors"]


def test_the_projector_has_a_thumbnail_for_every_point(trained: tuple[Path, list[Any]]) -> None:
    run, _ = trained
    folder = run / "tensorboard"
    config = (folder / "projector_config.pbtxt").read_text()
    assert all(f"00006/held_out/{file}" in config for file in ("tensors.tsv", "metadata.tsv", "sprite.png"))
    points = np.loadtxt(folder / "00006/held_out/tensors.tsv")
    header, *rows = (folder / "00006/held_out/metadata.tsv").read_text().splitlines()
    assert points.shape == (12 + 5, 4)  # every image, and one text of each colour
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    assert header == "name\tmodality"
    colours = ["red", "green", "blue", "black", "gold"]
    assert rows == [f"{colours[i % 5]}\timage" for i in range(12)] + [f"{c}\ttext" for c in colours]
    sprite = np.asarray(Image.open(folder / "00006/held_out/sprite.png"))
    assert sprite.shape == (5 * 48, 5 * 48, 3)
    assert sprite[24, 24].tolist() == [255, 0, 0]
    assert sprite[24, 2 * 48 + 24].tolist() == [0, 0, 255]


def test_retrieval_pictures_show_the_nearest_and_mark_the_right_ones(trained: tuple[Path, list[Any]]) -> None:
    run, drawn = trained
    z = np.loadtxt(run / "tensorboard/00006/held_out/tensors.tsv")
    images, texts, names = z[:12], z[12:], ["red", "green", "blue", "black", "gold"]
    queries, answers, title = drawn[-1]
    assert "of 5 texts at step 6" in title
    assert [name for _, name in queries] == names  # one image of each of the five ids
    for i, (name, found) in enumerate(zip(names, answers, strict=True)):
        cosines = texts @ images[i]
        order = np.argsort(-cosines)
        assert [a.item for a in found] == [names[j] for j in order]
        np.testing.assert_allclose([a.score for a in found], cosines[order], atol=1e-5)
        assert [a.correct for a in found] == [names[j] == name for j in order]


@pytest.mark.slow
def test_a_task_without_images_has_heat_maps_of_its_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(embeddings, "heat_map", lambda *a: (drawn.append(a), Figure((1, 1)))[1])
    overrides = (
        "train.for=1 steps",
        "train.batch=64",
        "eval.every=2 steps",
        "eval.start=true",
        "eval.synthetic.batches=2",
    )
    train(load_recipe("synth/confu", overrides), tmp_path / "run")
    assert_scalars_are_the_metrics(tmp_path / "run")
    events = read(tmp_path / "run")
    sides = ["a~b", "a~c", "b~c", "a+b~c", "a+c~b", "b+c~a"]
    assert sorted(events.Tags()["images"]) == sorted(f"similarity/{side}" for side in sides)
    for scores, rows, columns, title in drawn:
        assert scores.shape == (64, 64)
        assert columns == sorted(columns)
        if title.startswith("a+b (rows) with c"):
            for row, column in zip(rows, columns, strict=True):  # the diagonal: c = a xor b, bit by bit
                a, b = row.split(" + ")
                assert column == "".join(str(int(x) ^ int(y)) for x, y in zip(a, b, strict=True))
    assert len(drawn) == 12
    metadata = (tmp_path / "run/tensorboard/00001/held_out/metadata.tsv").read_text().splitlines()
    assert len(metadata) == 1 + 3 * 300
    assert not (tmp_path / "run/tensorboard/00001/held_out/sprite.png").exists()


@pytest.mark.slow
def test_a_resumed_run_has_every_step_once(squares: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    squares["data"]["broken"] = True  # no pictures: they take longer than the run
    squares["eval"] = {"every": "2 steps", "counting": _counting(tmp_path)}
    train(parse_recipe(squares), run)
    shutil.rmtree(run / "checkpoints/step-6")  # as if it had died after step 6, before it was saved
    (run / "DONE").unlink()
    outcome = train(parse_recipe(squares | {"train": squares["train"] | {"for": "8 steps"}}), run)
    assert outcome.step == 8
    assert_scalars_are_the_metrics(run)


def test_a_picture_that_cannot_be_drawn_costs_one_line(
    squares: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squares["data"]["broken"] = True
    squares["eval"] = {"every": "2 steps", "counting": _counting(tmp_path)}
    outcome = train(parse_recipe(squares), tmp_path / "run")
    assert outcome.finished
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["TensorBoard: no more pictures from step 0 on: ValueError: no such split here"]
    assert_scalars_are_the_metrics(tmp_path / "run")


def _counting(folder: Path) -> str:
    """An evaluator that needs no held-out split."""
    file = folder / "counting.py"
    file.write_text("class Counting:\n    def run(self, context):\n        yield 'count', 1.0\n")
    return f"{file}:Counting"


def test_log_tensorboard_false_writes_nothing(squares: dict[str, Any], tmp_path: Path) -> None:
    train(parse_recipe(squares | {"log": {"tensorboard": False}}), tmp_path / "run")
    assert not (tmp_path / "run/tensorboard").exists()


def test_charts_are_laid_out_by_what_is_measured() -> None:
    ways = ("image_to_text", "text_to_image")
    recalls = [f"eval/retrieval/{way}_{name}" for way in ways for name in ("r1", "r10", "median_rank", "chance_r1")]
    boards = layout(["step", "eval/retrieval/mean_recall", *recalls, "eval/gap/l2m", "eval/gap/scale"])
    assert list(boards) == ["loss", "retrieval, both ways", "gap, with the scale that moves it", "throughput"]
    assert list(boards["retrieval, both ways"])[:2] == ["retrieval: image to text", "retrieval: text to image"]
    (pattern,) = boards["retrieval, both ways"]["retrieval: image to text"][1]
    assert [name for name in recalls if re.match(pattern, name)] == [
        f"eval/retrieval/image_to_text_{name}" for name in ("r1", "r10", "chance_r1")
    ]
    assert list(layout([])) == ["loss", "throughput"]
    assert "synthetic, against theory" in layout(["eval/synthetic/no_information_loss"])


@pytest.mark.slow
def test_sounds_readings_and_frames_are_drawn_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"log": {"tensorboard": True}, "train": {"batch": 8, "for": "1 steps"}, "objective": "clip"}
    train(parse_recipe(sensed.recipe(tmp_path, **more, eval={"start": False, "retrieval": {}})), tmp_path / "run")
    assert "no more pictures" not in capsys.readouterr().err
    folder = tmp_path / "run" / "tensorboard" / "00001" / "held_out"
    points = (folder / "metadata.tsv").read_text().splitlines()[1:]
    assert {point.split("\t")[1] for point in points} == {"speech", "sensor", "face"}
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    side = sprite.shape[0] // 48
    tiles = sprite.reshape(side, 48, side, 48, 3).swapaxes(1, 2).reshape(-1, 48, 48, 3)
    assert all((tile < 255).any() for tile in tiles[: len(points)])
