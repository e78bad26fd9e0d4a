"""Models of open_clip and CLIP_benchmark's folders, against that package's own functions and open_clip's own model."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from json_keys import assert_keys
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score

from workbench.cli import cli
from workbench.encoders import _open_clip_weights
from workbench.errors import RecipeError
from workbench.export.exporting import export
from workbench.recipe.schema import parse_recipe
from workbench.runs.evaluating import evaluate_source
from workbench.runs.train import train

VISION = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 12, "width": 16, "heads": 2, "layers": 1, "vocab_size": 49408}
CONFIG = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bilinear", "resize_mode": "squash"}
NAMES = ("3", "1", "hot_dog", "crane", "a crane", "owl", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as open_clip publishes one, of the approximate GELU, with pictures prepared otherwise than usual."""
    folder = tmp_path_factory.mktemp("models") / "small"
    folder.mkdir()
    torch.manual_seed(0)
    clip = open_clip.CLIP(**CONFIG)
    clip.logit_scale.data.fill_(4.0)
    save_file({name: x.contiguous() for name, x in clip.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    return folder


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def write(folder: Path, kind: str, labels: Sequence[tuple[str, bytes]], names: Sequence[str] = NAMES) -> Path:
    """Write pictures with these members in two tars, as `clip_benchmark_export_wds` does."""
    rng = np.random.default_rng(3)
    (folder / "test").mkdir(parents=True)
    for shard, rows in enumerate(np.array_split(np.arange(len(labels)), 2)):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for row in rows.tolist():
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (4, 5, 3), np.uint8)).resize((20, 30)).save(picture, "png")
                for ending, content in (("png", picture.getvalue()), labels[row]):
                    member = tarfile.TarInfo(f"s{row:07d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text("2\n")
    if kind != "classification":
        (folder / "dataset_type.txt").write_text(f"{kind}\n")
    if kind != "retrieval":
        (folder / "classnames.txt").write_text("\n".join(names) + "\n")
        (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")
    return folder


class Theirs:
    """open_clip's own model and preprocessing, reading the same tars by webdataset."""

    def __init__(self, model: Path, data: Path) -> None:
        webdataset = pytest.importorskip("webdataset")
        pytest.importorskip("clip_benchmark")
        self.clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
        self.clip.eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
        pattern = str(data / "test" / "{0..1}.tar")
        self.rows = [
            (transform(sample["png"]), next(sample[key] for key in ("cls", "npy", "txt") if key in sample))
            for sample in webdataset.WebDataset(pattern, shardshuffle=False).decode("pil")
        ]

    def classify(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels, by CLIP_benchmark's functions."""
        from clip_benchmark.metrics import zeroshot_classification as theirs

        args = (self.clip, self.tokenizer, list(NAMES), ["a photo of a {c}.", "a {c}"], "cpu", False)
        labels = torch.from_numpy(np.array([label for _, label in self.rows]))
        batches = [(torch.stack([x for x, _ in self.rows]), labels)]
        return theirs.run_classification(self.clip, theirs.zero_shot_classifier(*args), batches, "cpu", False)


@pytest.mark.slow
def test_classification_is_clip_benchmarks(model: Path, tmp_path: Path) -> None:
    """Numbers of classes whose names are numbers, an underscore, a class without an item."""
    labels = np.random.default_rng(1).integers(0, 6, 41)
    folder = write(tmp_path / "data", "classification", [("cls", str(label).encode()) for label in labels])
    found = evaluate_source(f"open_clip:{model}", str(folder))
    logits, target = Theirs(model, folder).classify()
    assert target.tolist() == labels.tolist()
    said, best = logits.argmax(1), logits.topk(5).indices
    expected = {
        "acc1": (said == target).double().mean().item(),
        "acc5": (best == target[:, None]).any(1).double().mean().item(),
        "mean_per_class_recall": balanced_accuracy_score(target, said),
    }
    got = {name: found.metrics[f"clip_benchmark/{name}"] for name in expected}
    assert got == pytest.approx(expected, abs=1e-9)
    assert found.tables["zeroshot"].names == NAMES
    assert found.tables["zeroshot"].columns["support"].tolist() == np.bincount(labels, minlength=7).tolist()
    assert found.step is None


@pytest.mark.slow
def test_clip_benchmark_scores_an_export_as_wb_eval_scores_its_run(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    image = {"name": "open_clip", "config": VISION}
    text = {"name": "open_clip", "config": {key: value for key, value in TEXT.items() if key != "vocab_size"}}
    tree = {"name": "small", "data": "emoji", "model": {"dim": 8, "encoders": {"image": image, "text": text}}}
    train(
        parse_recipe(
            tree
            | {"objective": "clip", "train": {"for": "1 steps", "batch": 4}}
            | {"parallel": {"workers": 0}, "log": {"tensorboard": False}}
        ),
        run,
    )
    export(run, "open_clip", out)
    labels = np.random.default_rng(1).integers(0, 7, 41)
    folder = write(tmp_path / "data", "classification", [("cls", str(label).encode()) for label in labels])
    ours = {source: evaluate_source(source, str(folder)).metrics for source in (str(run), f"open_clip:{out}")}
    logits, target = Theirs(out, folder).classify()
    said = logits.argmax(1)
    expected = {
        "clip_benchmark/acc1": (said == target).double().mean().item(),
        "clip_benchmark/mean_per_class_recall": balanced_accuracy_score(target, said),
    }
    for source, metrics in ours.items():
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9), source


@pytest.mark.slow
def test_several_classes_are_clip_benchmarks(model: Path, tmp_path: Path) -> None:
    """A class that no picture has counts as 0, and a picture without any class stays."""
    labels = np.random.default_rng(1).random((41, 7)) < 0.3
    labels[:, 6] = labels[3] = False
    folder = write(tmp_path / "data", "multilabel", [("npy", npy(row.astype(int))) for row in labels])
    metrics = evaluate_source(f"open_clip:{model}", str(folder)).metrics
    logits, target = Theirs(model, folder).classify()
    from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class

    expected = average_precision_per_class(logits, target).mean().item()
    assert metrics["clip_benchmark/mean_average_precision"] == pytest.approx(expected, abs=1e-6)
    assert metrics["zeroshot/absent"] == 1


@pytest.mark.slow
def test_retrieval_is_clip_benchmarks(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words = ["red", "green", "blue", "cat", "dog", "tree", "house", "river", "stone", "cloud"]
    texts = [[" ".join(rng.choice(words, 5)) for _ in range(rng.integers(1, 5))] for _ in range(30)]
    folder = write(tmp_path / "data", "retrieval", [("txt", "\n".join(each).encode()) for each in texts])
    metrics = evaluate_source(str(model), str(folder)).metrics  # the folder alone is known for what it is
    theirs = Theirs(model, folder)
    from clip_benchmark.metrics import zeroshot_retrieval

    batches = [(torch.stack([x for x, _ in theirs.rows]), [text.splitlines() for _, text in theirs.rows])]
    expected = zeroshot_retrieval.evaluate(theirs.clip, batches, theirs.tokenizer, "cpu", False, [1, 5, 10])
    assert len(expected) == 6
    for name, value in expected.items():
        assert metrics[f"clip_benchmark/{name}"] == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_the_command_writes_classes_and_prints_one_object(model: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "classification", [("cls", str(row % 7).encode()) for row in range(14)])
    asked = [
        "eval",
        f"open_clip:{model}",
        "--data",
        str(folder),
        "--per-class",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert_keys("eval --per-class", found)
    rows = found["per_class"]["zeroshot"]["classes"]
    assert [(row["class"], row["support"]) for row in rows] == [(name, 2) for name in NAMES]
    assert sum(each["count"] for each in found["per_class"]["zeroshot"]["confusions"]) == pytest.approx(
        14 * (1 - found["metrics"]["zeroshot/accuracy"])
    )
    names = {"zeroshot.csv", "zeroshot_confusions.csv", "zeroshot.png"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    assert CliRunner().invoke(cli, [*asked[:4], "--out", "x"]).exit_code == 2
    assert CliRunner().invoke(cli, asked[:2]).exit_code == 2


def pairs(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for at in range(8):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(folder / f"{at}.png")
        rows.append(f"{at}.png\tthe picture {at}\tnot {at}\n")
    (folder / "pairs.tsv").write_text("filepath\ttitle\twrong\n" + "".join(rows))
    return folder / "pairs.tsv"


@pytest.mark.slow
def test_pairs_and_evaluators_of_ones_own_and_the_models_scale(model: Path, tmp_path: Path) -> None:
    """A list of pairs is searched both ways; `--set` names fields and evaluators, as negatives beside the captions."""
    file = str(pairs(tmp_path / "pairs"))
    metrics = evaluate_source(f"open_clip:{model / 'open_clip_model.safetensors'}", file).metrics
    assert {"retrieval/image_to_text_r1", "retrieval/text_to_image_r1"} <= metrics.keys()
    fields = "data.fields={image: {from: filepath}, text: {from: title}, negative: {kind: text, from: wrong}}"
    asked = ("eval.pairs={name: compositional, split: train}", "eval.gap={name: gap, split: train, neighbours: 3}")
    metrics = evaluate_source(f"open_clip:{model}", file, overrides=(fields, *asked)).metrics
    assert metrics["pairs/captions"] == 8
    four = [f"image_{at}: {{kind: image, from: filepath}}" for at in (0, 1)]
    four += [f"caption_{at}: {{kind: text, from: title}}" for at in (0, 1)]
    asked_of_four = (f"data.fields={{{', '.join(four)}}}", "eval.w={name: winoground, split: train}")
    ties = evaluate_source(f"open_clip:{model}", file, overrides=asked_of_four).metrics
    assert (ties["w/group"], ties["w/samples"]) == (0, 8)
    with pytest.raises(RecipeError, match=r"has no field 'image' for retrieval: it has image_0 \(image\)"):
        evaluate_source(f"open_clip:{model}", file, overrides=asked_of_four[:1])
    assert metrics["gap/scale"] == pytest.approx(np.exp(4.0))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("open_clip:ViT-B-33/openai", "is no file and no folder, and open_clip has no model 'ViT-B-33'"),
        ("open_clip:ViT-B-32", r"which weights .* write open_clip:ViT-B-32/TAG or .*/FILE \(tags: openai,"),
        ("open_clip:ViT-B-32/nothing.pt", "'nothing.pt' is neither a file nor a tag of ViT-B-32"),
        ("open_clip:RN50/openai", "ModifiedResNet"),
        ("open_clip:{folder}", "has no open_clip_config.json"),
        ("open_clip:{folder}/weights.pt", "nothing beside it says of which model: write open_clip:MODEL/"),
    ],
)
def test_names_that_are_none_are_told(tmp_path: Path, source: str, message: str) -> None:
    torch.save({}, tmp_path / "weights.pt")
    file = str(pairs(tmp_path / "pairs"))
    with pytest.raises(RecipeError, match=message):
        evaluate_source(source.format(folder=tmp_path), file)


def test_without_a_network_the_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is not asked five times over, but told that there is no network; afterwards it may be there again."""
    import huggingface_hub.constants as hub

    asked: list[bool] = []

    def fail(tag: dict[str, Any]) -> str:
        asked.append(hub.HF_HUB_OFFLINE)
        raise OSError("no such host\nand more")

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_open_clip_weights, "_resolves", lambda host: False)
    monkeypatch.setattr(_open_clip_weights, "open_clip", SimpleNamespace(download_pretrained=fail))
    with pytest.raises(ValueError, match=r"'openai' are not in the cache \(timm/x\) .* no such host and more: fetch"):
        _open_clip_weights.download("openai", {"hf_hub": "timm/x"})
    assert asked == [True]
    assert not hub.HF_HUB_OFFLINE


def test_data_that_cannot_be_evaluated_are_told(model: Path, tmp_path: Path) -> None:
    source = f"open_clip:{model}"
    with pytest.raises(RecipeError, match="comes without data: name some, as --data"):
        evaluate_source(source)
    folder = write(tmp_path / "data", "retrieval", [("txt", b"a cat")] * 4)
    with pytest.raises(RecipeError, match=r"--checkpoint best: .* has no checkpoints"):
        evaluate_source(source, str(folder), "best")
    with pytest.raises(ValueError, match=r"no suite \['probe'\]"):
        evaluate_source(source, str(folder), suites=["probe"])
    with pytest.raises(RecipeError, match="beside --data, what can be set is eval"):
        evaluate_source(source, str(folder), overrides=["train.lr=1"])
    (folder / "dataset_type.txt").write_text("segmentation")
    with pytest.raises(RecipeError, match="says 'segmentation': write classification, multilabel or retrieval"):
        evaluate_source(source, str(folder))
    (folder / "dataset_type.txt").unlink()
    with pytest.raises(RecipeError, match=r"has no classnames.txt, which zero-shot classification needs"):
        evaluate_source(source, str(folder))
