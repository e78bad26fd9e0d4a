"""The TensorBoard callback: everything measured is there, pictures tell the truth, and neither can break a run."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import sensed
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from small_engines import built
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context
from torch.utils.tensorboard.writer import SummaryWriter

from workbench.callbacks.tensorboard import TensorBoard
from workbench.engine import Callback, Engine, Logs
from workbench.figures import embeddings
from workbench.figures.dashboards import layout, list_tags
from workbench.figures.hparams import choose_hparams
from workbench.recipe.schema import load_recipe, parse_recipe
from workbench.runs import callbacks
from workbench.runs.folder import Run
from workbench.runs.train import train
from workbench.scoring.classes import table_of_answers
from workbench.types import ClassTable

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
        "eval": {"every": "6 steps", "best": "retrieval/mean_recall", "retrieval": {"k": [1]}},
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
    """Every record under its own names, chances in a group of their own with two points, the criterion once more."""
    events = read(run)
    expected: dict[str, dict[int, float]] = {}
    best = yaml.safe_load((run / "recipe.yaml").read_text())["eval"]["best"]
    for record in records(run):
        for name in record.keys() - {"step", "samples"}:
            chance = "chance" in name
            tag = f"what_chance_gives/{name.removeprefix('eval/').replace('chance_', '')}" if chance else name
            expected.setdefault(tag, {})[record["step"]] = record[name]
            if name == f"eval/{best}":
                expected.setdefault(f"criterion/{best}", {})[record["step"]] = record[name]
    assert set(events.Tags()["scalars"]) == set(expected)
    for name, values in expected.items():
        points = events.Scalars(name)
        if name.startswith("what_chance_gives/"):
            assert len(points) == 2
            values = {step: values[step] for step in (min(values), max(values))}
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


@pytest.mark.slow
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
    gap = ("eval/gap/l2m", "eval/gap/rankme_image", "eval/gap/scale")
    record = dict.fromkeys(["step", "eval/retrieval/mean_recall", *recalls, *gap], 0.2)
    for way, few in zip(ways, (0.02, 0.12), strict=True):
        record |= {f"eval/retrieval/{way}_chance_r1": few / 10, f"eval/retrieval/{way}_chance_r10": few}
    boards = layout(record, "retrieval/mean_recall")
    assert list(boards) == ["the metric that chooses the best step", "retrieval", "gap", "loss", "throughput"]
    assert list(boards["retrieval"]) == [
        "image to text: recall at 10",
        "text to image: recall at 1",  # ten of them are found by chance too often
        "image to text: median rank",
        "text to image: median rank",
    ]
    tags = [tag for name in record for tag in list_tags(name, "retrieval/mean_recall")]

    def shown(board: str, chart: str) -> list[str]:
        kind, patterns = boards[board][chart]
        assert kind == "Multiline"
        assert isinstance(patterns, list)
        return [tag for pattern in patterns for tag in tags if re.match(pattern, tag)]

    assert shown("the metric that chooses the best step", "retrieval/mean_recall") == [
        "criterion/retrieval/mean_recall"
    ]
    assert shown("retrieval", "image to text: recall at 10") == [
        "eval/retrieval/image_to_text_r10",
        "what_chance_gives/retrieval/image_to_text_r10",
    ]
    assert shown("gap", "rankme image") == ["eval/gap/rankme_image"]
    assert list(layout({})) == ["loss", "throughput"]
    assert "synthetic" in layout({"eval/synthetic/no_information_loss": 1.0})


def test_the_criterion_comes_first_and_chances_last() -> None:
    names = ["data/skipped", "eval/knn/chance", "eval/a/x_chance_r5", "eval/a/x_r5", "time/step", "train/loss"]
    tags = [tag for name in names for tag in list_tags(name, "a/x_r5")]
    assert sorted(tags) == [
        "criterion/a/x_r5",
        "data/skipped",
        "eval/a/x_r5",
        "time/step",
        "train/loss",
        "what_chance_gives/a/x_r5",
        "what_chance_gives/knn/chance",
    ]
    assert list_tags("eval/a/mischance", "a/x_r5") == ["eval/a/mischance"]


def sessions(run: Path) -> list[dict[str, Any]]:
    """What the HPARAMS tab shows of the runs below a folder: {setting: value}, status and metrics of each session."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(run)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(run))
    context = Context(base_plugin.TBContext(data_provider=provider))
    runs = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, runs, [])
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=99)
    request.allowed_statuses.extend([api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_UNKNOWN])
    request.col_params.extend(api_pb2.ColParams(metric=metric.name) for metric in experiment.metric_infos)
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    return [
        {
            "hparams": {name: getattr(x, x.WhichOneof("kind")) for name, x in group.hparams.items()},
            "status": api_pb2.Status.Name(session.status),
            "metrics": {value.name.tag: value.value for value in session.metric_values},
        }
        for group in groups
        for session in group.sessions
    ]


@pytest.mark.slow
def test_a_run_is_one_session_however_often_it_was_resumed(squares: dict[str, Any], tmp_path: Path) -> None:
    class Fails(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            if engine.step == 5:
                raise ValueError("the disk is full")

    class Stops(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            engine.stop_requested = engine.step == 2

    squares["data"]["broken"] = True  # no pictures
    squares["eval"] = {"every": "2 steps", "best": "counting/count", "counting": _counting(tmp_path)}
    squares["checkpoint"] = {"every": "2 steps"}
    recipe, run = parse_recipe({**squares, "name": "study/clip-seed0", "seed": 3}), tmp_path / "run"
    train(recipe, run, callbacks=[Stops()])
    (session,) = sessions(tmp_path)
    assert session["status"] == "STATUS_UNKNOWN"
    with pytest.raises(ValueError, match="the disk is full"):
        train(recipe, run, callbacks=[Fails()])
    (session,) = sessions(tmp_path)
    assert session["status"] == "STATUS_FAILURE"
    train(recipe, run)
    (session,) = sessions(tmp_path)
    assert session["status"] == "STATUS_SUCCESS"
    last = next(r for r in reversed(records(run)) if "train/loss" in r)
    assert session["metrics"]["train/loss"] == pytest.approx(last["train/loss"])
    assert session["metrics"]["criterion/counting/count"] == 1
    assert {"arm": "clip", "seed": 3, "objective.name": "clip", "train.batch": 20}.items() <= session["hparams"].items()


def test_settings_that_change_no_number_are_no_hyperparameters(squares: dict[str, Any]) -> None:
    found = choose_hparams(parse_recipe(squares).as_dict())
    assert found["train.lr"] == 0.01
    assert found["train.betas"] == "[0.9, 0.98]"
    assert found["train.compile"] is False
    assert "arm" not in found  # no run of a sweep
    assert "train.microbatch" not in found  # it is not set
    assert not [key for key in found if key.split(".")[0] in ("name", "eval", "log", "checkpoint", "parallel")]


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


def test_what_is_taken_for_what_is_drawn_and_told(tmp_path: Path) -> None:
    """A table without answers, as of average precisions, has no picture; the words stand beside it."""
    answers = table_of_answers(("cat", "dog"), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    ranked = ClassTable(("cat",), {"average_precision": torch.ones(1)})
    nothing: Any = SimpleNamespace(embed=lambda context: {}, pairs=list, first=lambda *kinds: None)
    board = TensorBoard(tmp_path, "", cast(Any, None), tables={"kinds": answers, "tags": ranked})
    board._writer = SummaryWriter(str(tmp_path))
    board._draw(nothing, 3)
    board.writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["confusion/kinds"]
    (told,) = events.Tensors("confusion/kinds/text_summary")
    assert told.tensor_proto.string_val == [b"1 of 2 items of 'cat' were called 'dog'"]


def test_it_is_given_the_tables_of_the_last_evaluation(tmp_path: Path) -> None:
    parts, engine = built()
    (board,) = callbacks._tensorboard(parts, engine.parallel, Run(tmp_path))
    assert isinstance(board, TensorBoard)
    assert board.tables is parts.tables
