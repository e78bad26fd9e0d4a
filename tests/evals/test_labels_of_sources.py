"""Labels of one's own data: probes and zero-shot read classes, and say so of anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from workbench import load
from workbench.build import build_parts
from workbench.errors import RecipeError
from workbench.recipe.component import validate
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.train import train
from workbench.scoring.embedding import Embedder
from workbench.types import Side

LABELS = {"kind": "kind", "tags": {"from": "tags", "many": True}, "year": {"from": "year", "number": True}}


def recipe(folder: Path, **more: Any) -> Recipe:
    rows = [
        {"x": [n % 3, n / 60], "y": [n % 3, 1], "kind": "abc"[n % 3], "tags": ["a", "b"][: n % 3], "year": n, "id": n}
        for n in range(60)
    ]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    vector = {"kind": "vector"}
    data = {"name": "json", "path": str(folder / "list.jsonl"), "fields": {"x": vector, "y": vector}, "labels": LABELS}
    return parse_recipe(
        {
            "name": "labels",
            "data": {**data, "validation": "20 %", "splits": {"test": "20 %"}},
            "model": {"dim": 8, "encoders": {"x": "mlp", "y": "mlp"}},
            "objective": "clip",
            "train": {"for": "3 steps", "batch": 9},
            "parallel": {"workers": 0},
            "log": {"tensorboard": False},
            "eval": more,
        }
    )


def test_a_probe_reads_a_class_from_its_features(tmp_path: Path) -> None:
    parts = build_parts(recipe(tmp_path, probe={"name": "probe", "label": "kind", "on": ["x", "y"]}))
    found = dict(parts.evaluate(torch.device("cpu")))
    assert found["probe/chance"] == pytest.approx(1 / 3)
    assert found["probe/x/accuracy"] == 1  # the class is a linear function of x


def test_a_probe_reads_several_classes(tmp_path: Path) -> None:
    parts = build_parts(recipe(tmp_path, probe={"name": "probe", "label": "tags", "on": ["x"]}))
    found = dict(parts.evaluate(torch.device("cpu")))
    assert set(found) == {f"probe/{x}{f1}" for x in ("always_", "x/") for f1 in ("weighted_f1", "macro_f1")}
    assert found["probe/x/weighted_f1"] > found["probe/always_weighted_f1"]


def test_a_probe_reads_a_number(tmp_path: Path) -> None:
    """It is a linear function of x, which its embedding is not quite: a unit vector."""
    parts = build_parts(recipe(tmp_path, probe={"name": "probe", "label": "year", "on": ["x"]}))
    found = dict(parts.evaluate(torch.device("cpu")))
    assert set(found) == {"probe/always_r2", "probe/always_mae", "probe/x/r2", "probe/x/mae", "probe/x/spearman"}
    assert found["probe/x/r2"] > 0.5 > 0 >= found["probe/always_r2"]
    assert found["probe/x/mae"] < found["probe/always_mae"]


def test_seconds_since_1970_are_not_rounded(tmp_path: Path) -> None:
    said = recipe(tmp_path)
    lines = (tmp_path / "list.jsonl").read_text().replace('"year": 7,', '"year": 1764455123,')
    (tmp_path / "list.jsonl").write_text(lines)
    split = build_parts(said).data.split("train")
    assert 1764455123 in split.items["x"].targets["year"].tolist()


@pytest.mark.parametrize("cell", ["soon", "1e999", "-inf", [1, 2], "1,5"])
def test_what_is_no_number_ends_in_one_message(tmp_path: Path, cell: object) -> None:
    said = recipe(tmp_path, probe={"name": "probe", "label": "year", "on": ["x"]})
    lines = (tmp_path / "list.jsonl").read_text().replace('"year": 7,', f'"year": {json.dumps(cell)},')
    (tmp_path / "list.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=r"label 'year' of .*row 7 is (no number|several)"):
        dict(build_parts(said).evaluate(torch.device("cpu")))


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        ({"name": "knn", "label": "tags", "on": "x"}, "label 'tags' is several classes"),
        (
            {"name": "zeroshot", "label": "year", "image": "x", "text": "y"},
            "no classes named 'year'",
        ),
    ],
)
def test_what_is_no_class_is_refused_by_name(tmp_path: Path, evaluator: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dict(build_parts(recipe(tmp_path, e=evaluator)).evaluate(torch.device("cpu")))


def test_a_run_is_loaded_where_its_data_are_not(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    (tmp_path / "list.jsonl").unlink()
    assert load(tmp_path / "run").encode({"x": [[1.0, 2.0]]})["x"].shape == (1, 8)


def test_a_label_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises((RecipeError, ValidationError), match="a label is a number, or has classes, not both"):
        parse_recipe(recipe(tmp_path).as_dict() | {"data": {"name": "json", "path": "a", "labels": {"a": {
            "from": "a", "number": True, "many": True}}}})  # fmt: skip


@pytest.mark.parametrize("in_a_file", [False, True])
def test_zero_shot_on_pictures_of_ones_own(tmp_path: Path, in_a_file: bool) -> None:
    """Numbers of classes whose names, as the prompts, stand in the recipe or in files; against a loop."""
    rows, names, prompts = [], ["red kite", "robin", "wren"], ["a photo of a {}", "{c}, singing"]
    for n in range(24):
        Image.new("RGB", (16, 16), (80 * (n % 3), 9 * n, 20)).save(tmp_path / f"{n}.png")
        rows.append({"file_name": f"{n}.png", "text": f"bird {n}", "bird": n % 3 if n else None})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "classes.txt").write_text("\n".join(names))
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    files = {"classes": str(tmp_path / "classes.txt"), "prompts": str(tmp_path / "prompts.txt")}
    said: dict[str, Any] = files if in_a_file else {"classes": names, "prompts": prompts}
    image = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    labels = {"species": {"from": "bird", "classes": said["classes"]}}
    zeroshot = {"name": "zeroshot", "label": "species", "prompts": said["prompts"], "split": "train"}
    block: dict[str, Any] = {
        "data": {"name": "folder", "path": str(tmp_path), "labels": labels},
        "model": {
            "dim": 8,
            "encoders": {
                "image": {"name": "open_clip", "config": image},
                "text": {"name": "open_clip", "config": text},
            },
        },
        "eval": {"birds": zeroshot},
    }
    parts = build_parts(parse_recipe(recipe(tmp_path).as_dict() | block))
    found = dict(parts.evaluate(torch.device("cpu")))

    embed = Embedder(parts.model, parts.transforms(train=False), torch.device("cpu"))
    pictures = embed({"image": [Image.open(tmp_path / f"{n}.png") for n in range(1, 24)]}, [Side(("image",))])
    means = []
    for name in names:
        texts = embed({"text": [f"a photo of a {name}", f"{name}, singing"]}, [Side(("text",))])
        means.append(texts[Side(("text",))].z[:, 0].mean(0))
    scores = pictures[Side(("image",))].z[:, 0] @ torch.nn.functional.normalize(torch.stack(means), dim=1).T
    hits = [int(row.argmax()) == n % 3 for n, row in enumerate(scores, 1)]
    assert found["birds/accuracy"] == pytest.approx(sum(hits) / 23)
    assert found["birds/chance"] == pytest.approx(1 / 3)
    assert found["birds/majority"] == pytest.approx(8 / 23)


def test_prompts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\ufeffa photo of a {}.\n\n a sketch of {c}\n", encoding="utf-8")
    found = validate("eval", {"name": "zeroshot", "prompts": str(tmp_path / "prompts.txt")})
    assert found.as_dict()["prompts"] == ["a photo of a {}.", "a sketch of {c}"]
    for wrong, said in (("none.txt", "no text file"), (str(tmp_path), "no text file"), ("a {} b", "write a list")):
        with pytest.raises(ValidationError, match=said):
            validate("eval", {"name": "zeroshot", "prompts": wrong})
    (tmp_path / "prompts.txt").write_text("no place")
    with pytest.raises(ValidationError, match="'no place' needs one place"):
        validate("eval", {"name": "zeroshot", "prompts": str(tmp_path / "prompts.txt")})
