"""Recipes of the sets that papers use, on look-alikes of a few rows in their owners' layout.

Each is planned without data, checked, trained for two steps and evaluated, by the commands that its user types.
"""

from __future__ import annotations

import csv
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from json_keys import assert_keys
from PIL import Image

from workbench.cli import cli

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
RECIPES = Path(__file__).parents[2] / "recipes"
TEXT = "{name: open_clip, model: null, config: {context_length: 16, width: 16, heads: 2, layers: 1}}"
IMAGE = "{name: open_clip, model: null, config: {layers: 1, width: 16, head_width: 8, patch_size: 8, image_size: 16}}"
TOWERS = {
    "model__encoders__image": IMAGE.replace("model: null", "model: null, pretrained: null"),
    "model__encoders__text": TEXT.replace("model: null", "model: null, pretrained: null"),
}
AUDIO = "{name: audio, model: test_vit, mels: 32}"
SHORT = {
    "data.samples": "null",
    "train.for": "2 steps",
    "train.batch": 4,
    "train.warmup": "1 steps",
    "train.precision": "fp32",
    "parallel.workers": 0,
    "log.tensorboard": "false",
    "eval.start": "false",
}


def run(command: str, recipe: str, *more: str, fails: bool = False, **sets: Any) -> str:
    """Run `wb COMMAND` on a recipe; `sets` are overrides, of keys whose dots are written as __."""
    words = [word for key, value in sets.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    result = CliRunner().invoke(cli, [command, str(RECIPES / recipe), *more, *words], catch_exceptions=False)
    assert (result.exit_code != 0) == fails, result.output
    assert "Traceback" not in result.output
    return result.stderr.strip() if fails else result.stdout


def plan(recipe: str) -> None:
    """Plan a recipe and refuse to train it where the data is not: one line says what to point where."""
    found = json.loads(run("pretrain", recipe, "--dry", "--json"))
    assert_keys("pretrain --dry", found)
    assert found["total_parameters"] > 1e5
    for said in (found["missing_data"], run("pretrain", recipe, fails=True)):
        assert "\n" not in said
        assert "--set data.path=" in said


def train(recipe: str, **sets: Any) -> dict[str, float]:
    """Check a recipe, train it for two steps and evaluate it: its metrics."""
    small = {**{key.replace(".", "__"): value for key, value in SHORT.items()}, **sets}
    run("check", recipe, **small)
    found = json.loads(run("pretrain", recipe, "--run", "run", "--json", **small))
    assert_keys("pretrain", found)
    return {name.removeprefix("eval/"): value for name, value in found["metrics"].items()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_clotho(folder: Path) -> None:
    """Names with blanks, commas and brackets, captions in quotation marks: as Clotho's lists have them."""
    rng = np.random.default_rng(0)
    for part in ("development", "validation", "evaluation"):
        (folder / part).mkdir(parents=True)
        names = [f"{part} - rain, heavy ({n}).wav" for n in range(8)]
        for n, name in enumerate(names):
            soundfile.write(folder / part / name, 0.1 * rng.normal(size=20_000 + 1000 * n), 44_100)
        with (folder / part / f"clotho_metadata_{part}.csv").open("w", newline="", encoding="latin-1") as file:
            rows = csv.writer(file)
            rows.writerow(["keywords", "file_name", "sound_id", "manufacturer"])
            rows.writerows(["rain;heavy;caf\xe9", name, 7, "x"] for name in names[:-1])  # the last one has none
        with (folder / part / f"clotho_captions_{part}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", *(f"caption_{n}" for n in range(1, 6))])
            rows.writerows(
                [name, *(f"Rain falls, {n} and {k} times." for k in range(5))] for n, name in enumerate(names)
            )


@pytest.mark.slow
def test_clotho_with_five_captions(folder: Path) -> None:
    plan("clotho_clip.yaml")
    write_clotho(folder / "data" / "clotho")
    found = train(
        "clotho_clip.yaml", data__fields__audio__seconds=1, model__encoders__audio=AUDIO, model__encoders__text=TEXT
    )
    for split in ("validation", "test"):
        assert found[f"{split}/audio_to_text_chance_r1"] == pytest.approx(5 / 40), "each of five captions is right"
        assert found[f"{split}/text_to_audio_chance_r1"] == pytest.approx(1 / 8)
        assert 0 < found[f"{split}/audio_to_text_map10"] <= 1
        assert {f"{split}/text_to_audio_{fact}" for fact in ("r1", "r5", "r10", "map10")} <= found.keys()


def convert(section: str) -> None:
    """Run the lines of docs/papers.md that make of the owner's files what a recipe reads."""
    text = PAGE.read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text[text.index(f"## {section}\n") :], re.DOTALL)[:1]
    exec(program, {})


@pytest.mark.slow
def test_clotho_with_keywords(folder: Path) -> None:
    plan("clotho_confu.yaml")
    write_clotho(folder / "data" / "clotho")
    convert("Clotho")
    found = train(
        "clotho_confu.yaml", data__fields__audio__seconds=1, model__encoders__audio=AUDIO, model__encoders__text=TEXT
    )
    for split in ("validation", "test"):
        assert found[f"{split}/keywords_to_audio_chance_r1"] == pytest.approx(1 / 8), "7 of 8 sounds have keywords"
        assert found[f"{split}/audio+keywords_to_text_chance_r1"] == pytest.approx(5 / 40)
        assert {f"{split}/mean_recall_{n}_to_1" for n in (1, 2)} < found.keys()


def write_pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 24), (20 * n % 256, 90, 160)).save(folder / name)


@pytest.mark.slow
def test_flickr30k_in_karpathys_splits(folder: Path) -> None:
    plan("flickr30k_retrieval.yaml")
    data = folder / "data" / "flickr30k"
    names = [f"{1000092795 + n}.jpg" for n in range(18)]
    write_pictures(data / "flickr30k-images", names)
    images = []
    for n, name in enumerate(names):
        said = [
            {"tokens": ["a", "dog"], "raw": f"Dog {n}, view {k}.", "imgid": n, "sentid": 5 * n + k} for k in range(5)
        ]
        split = ["train", "val", "test"][n % 3]
        images.append({"sentids": [], "imgid": n, "sentences": said, "split": split, "filename": name})
    (data / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    found = train("flickr30k_retrieval.yaml", eval__start="true", **TOWERS)
    assert found["test/image_to_text_chance_r1"] == pytest.approx(5 / 30)
    assert found["test/text_to_image_chance_r1"] == pytest.approx(1 / 6)
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    recalls = [row["eval/test/mean_recall"] for row in rows if "eval/test/mean_recall" in row]
    assert {*recalls} == {found["test/mean_recall"]}, "nothing is trained"


@pytest.mark.slow
def test_cocos_captions(folder: Path) -> None:
    plan("coco_retrieval.yaml")
    names = [f"{n:012}.jpg" for n in range(6)]
    write_pictures(folder / "data" / "coco" / "val2017", names)
    images = [
        {"id": 10 + n, "file_name": name, "license": 1, "height": 24, "width": 20} for n, name in enumerate(names)
    ]
    annotations = [{"image_id": 10 + n % 6, "id": n, "caption": f"Dog {n % 6}, view {n // 6}."} for n in range(30)]
    (folder / "data" / "coco" / "annotations").mkdir()
    list_ = folder / "data" / "coco" / "annotations" / "captions_val2017.json"
    list_.write_text(json.dumps({"info": {}, "licenses": [], "images": images, "annotations": annotations}))
    found = train("coco_retrieval.yaml", **TOWERS)
    assert found["test/image_to_text_chance_r1"] == pytest.approx(5 / 30)


def write_mmimdb(folder: Path) -> None:
    """Seven-digit names, several plots, genres beyond the 23, a film of no such genre."""
    names = [f"{n:07}" for n in range(5, 53)]
    write_pictures(folder / "dataset", [f"{name}.jpeg" for name in names])
    for n, name in enumerate(names):
        genres = [genre for k, genre in enumerate(["Drama", "Sci-Fi", "Film-Noir"], 1) if n % (k + 1) == 0] + ["Adult"]
        about = {"title": f"Film {n}", "year": 1950 + n, "plot": [f"One. {n}", "Two."][: 1 + n % 2], "genres": genres}
        (folder / "dataset" / f"{name}.json").write_text(json.dumps(about))
    split = {"train": names[::2], "dev": names[1::4], "test": names[3::4]}
    (folder / "split.json").write_text(json.dumps(split))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["confu", "comm"])
def test_mmimdb(folder: Path, objective: str) -> None:
    plan(f"mmimdb_{objective}.yaml")
    write_mmimdb(folder / "data" / "mmimdb")
    more = {"model__dim": 16, "data__fields__plot__at_most": 1} if objective == "confu" else {"model__dim": 16}
    small = {key.replace("text", "plot"): value.replace(", pretrained: null", "") for key, value in TOWERS.items()}
    found = train(f"mmimdb_{objective}.yaml", **small, **more)
    assert found["test/plot_to_image_chance_r1"] == pytest.approx(1 / 12), "films of the list, and no others"
    assert 0 < found["probe/always_macro_f1"] < 0.1, "3 of 23 genres are there"
    inputs = ["image", "plot", "title", "image+plot"] if objective == "confu" else ["+image", "image+plot"]
    for name in inputs:
        assert {f"probe/{name}/{average}_f1" for average in ("weighted", "macro")} < found.keys()


def write_mosi(folder: Path) -> None:
    """Sequences padded at the beginning, -inf in sounds, opinions from -3 to 3; one sample has nothing of vision."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    data = {}
    for part, n in (("train", 24), ("valid", 12), ("test", 12)):
        opinions = rng.permutation(np.linspace(-3, 3, n)).reshape(n, 1, 1)
        rows = {
            key: rng.normal(size=(n, 50, d)) + opinions for key, d in (("vision", 35), ("audio", 74), ("text", 300))
        }
        for key in rows:
            rows[key][:, : rng.integers(10, 40)] = 0
        rows["audio"][0, -1, 0] = -np.inf
        rows["vision"][1] = 0
        data[part] = {**rows, "labels": opinions, "id": [f"{part}[{k}]" for k in range(n)]}
    with (folder / "mosi_raw.pkl").open("wb") as file:
        pickle.dump(data, file)


@pytest.mark.slow
def test_multibench(folder: Path) -> None:
    plan("multibench_confu.yaml")
    write_mosi(folder / "data" / "mosi")
    convert("MultiBench's sequences")
    found = train("multibench_confu.yaml", model__dim=8)
    assert np.load("data/mosi/train/0.audio.npy").shape[0] < 41, "padding is gone"
    assert found["probe/chance"] == 0.5
    assert found["probe/majority"] == pytest.approx(6 / 11), "inputs are compared on samples that have all of them"
    assert found["probe/words/accuracy"] > 0.5, "an opinion shifts every frame"
    assert {f"validation/mean_recall_{n}_to_1" for n in (1, 2)} < found.keys()
    assert found["validation/audio_to_words_chance_r1"] == pytest.approx(1 / 12)
    assert found["validation/audio_to_vision_chance_r1"] == pytest.approx(1 / 11), "one sample has no vision"
