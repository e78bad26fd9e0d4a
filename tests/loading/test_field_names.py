"""Names of fields: words of our own and of torch's are refused, and two fields of a kind are two modalities."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

import workbench
from workbench.build import build_parts
from workbench.errors import RecipeError
from workbench.loading.fields import Fields
from workbench.recipe.schema import parse_recipe
from workbench.runs.train import train

IMAGE = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.mark.parametrize("name", ["id", "single", "values", "type", "training"])
def test_a_word_of_our_own_is_refused_with_another_name(name: str) -> None:
    with pytest.raises(ValidationError, match=f"a field cannot be called '{name}': .* say {name}_"):
        Fields.parse({name: {"kind": "vector"}, "text": {}})
    Fields.parse({f"{name}_": {"kind": "vector"}, "labels": {"kind": "vector"}, "index": {"kind": "text"}})


def recipe(folder: Path) -> dict[str, Any]:
    rows = []
    for n in range(12):
        for side in ("front", "back"):
            Image.new("RGB", (16, 16), (20 * n, 90 * (side == "back"), 9)).save(folder / f"{side}{n}.png")
        row = {"front": f"front{n}.png", "back": f"back{n}.png" if n % 4 else None}
        rows.append({**row, "en": [f"a bird {n}", f"number {n}"], "de": f"Vogel {n}" if n % 3 else ""})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    image, text = {"kind": "image"}, {"kind": "text", "at_most": 2, "pick": "first"}
    fields = {"front": image, "back": image, "en": text, "de": {"kind": "text"}}
    picture, words = ({"name": "open_clip", "config": config} for config in (IMAGE, TEXT))
    return {
        "name": "birds",
        "data": {"name": "json", "path": str(folder / "list.jsonl"), "fields": fields, "validation": "40 %"},
        "model": {"dim": 8, "encoders": {"front": picture, "back": picture, "en": words, "de": words}},
        "objective": "clip",
        "train": {"for": "2 steps", "batch": 4},
        "eval": {"start": False, "retrieval": {"k": [1]}, "gap": {"x": "front", "y": "de", "neighbours": 1}},
        "parallel": {"workers": 0},
        "log": {"tensorboard": False},
    }


@pytest.mark.slow
def test_two_pictures_and_two_texts_are_four_modalities(tmp_path: Path) -> None:
    outcome = train(parse_recipe(recipe(tmp_path)), tmp_path / "run")
    found = outcome.records[-1]
    assert {"eval/retrieval/front_to_back_r1", "eval/retrieval/en_to_de_r1", "eval/gap/l2m"} <= set(found)
    model = workbench.load(tmp_path / "run")
    front, back = (Image.open(tmp_path / f"{side}1.png") for side in ("front", "back"))
    encoded = model.encode({"front": [front], "back": [back], "de": ["Vogel"]})
    assert not encoded["front"].equal(encoded["back"])
    with pytest.raises(ValueError, match=r"front.*back"):
        model.encode_image([front])


def test_an_encoder_of_such_a_name_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from workbench.types import Modality\n"
        "class Own:\n"
        "    modalities = {'values': Modality('vector', (3,)), 'b': Modality('vector', (3,))}\n"
        "    def __len__(self): return 9\n"
        "    def batches(self, start, feed): return iter(())\n"
        "    def split(self, name): raise ValueError(name)\n"
    )
    wanted = recipe(tmp_path) | {"data": {"name": f"{tmp_path}/own.py:Own"}, "eval": {"start": False}}
    wanted["model"] = {"dim": 8, "encoders": {"values": "mlp", "b": "mlp"}}
    with pytest.raises(RecipeError, match=r"model.encoders.values: torch means something else.* call it values_"):
        build_parts(parse_recipe(wanted))
