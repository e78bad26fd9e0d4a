"""`wb search` against a plain product of what `workbench.load` encodes: folders, lines, tables, files of embeddings."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from json_keys import assert_keys
from PIL import Image

import workbench
from workbench.build import build_objective
from workbench.cli import cli
from workbench.recipe.schema import parse_recipe
from workbench.runs import candidates
from workbench.runs.search import Search, find_question, query_item
from workbench.runs.train import train

TREE: dict[str, Any] = {
    "name": "shapes",
    "data": {
        "name": "folder",
        "path": "data",
        "fields": {"photo": {"kind": "image"}, "text": {"from": "says"}, "sensor": {"kind": "vector", "dim": 4}},
    },
    "model": {
        "dim": 12,
        "encoders": {
            "photo": {
                "name": "open_clip",
                "config": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
            },
            "text": {
                "name": "open_clip",
                "config": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
            },
            "sensor": {"name": "mlp", "width": 8},
        },
        "fusion": {"name": "mlp", "hidden": 8},
    },
    "objective": "confu",
    "train": {"for": "2 steps", "batch": 4, "lr": 1e-2},
    "eval": {"start": False, "every": "0 steps"},
    "log": {"tensorboard": False},
    "parallel": {"workers": 0},
}
SAYS = [f"{colour} {thing}" for colour in ("red", "blue", "grey") for thing in ("kite", "boat", "tower")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, its data (every fourth row lacks its text), and a folder with a file that is no picture."""
    home, rng, rows = tmp_path_factory.mktemp("search"), np.random.default_rng(3), []
    (home / "data").mkdir()
    for n, says in enumerate(SAYS):
        Image.fromarray(rng.integers(256, size=(18, 21, 3), dtype=np.uint8)).save(home / "data" / f"{n}.png")
        row = {"photo": f"{n}.png", "sensor": rng.normal(size=4).tolist(), "says": None if n % 4 == 0 else says}
        rows.append(row)
    (home / "data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "lines.txt").write_text("\n\n".join(SAYS))
    (home / "mixed" / "below").mkdir(parents=True)
    (home / "mixed" / "below" / "good.JPG").write_bytes((home / "data" / "2.png").read_bytes())
    (home / "mixed" / "broken.jpg").write_bytes(b"no picture")
    (home / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        train(parse_recipe(TREE), home / "run")
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(candidates, "CHUNK", 2)  # several chunks, and one that is not full
    monkeypatch.setattr(candidates, "ROWS", 4)


def search(*words: str, status: int = 0) -> Any:
    result = CliRunner().invoke(cli, ["search", "run", *words, "--json"])
    assert result.exit_code == status, result.output
    if status:
        return result.stderr
    answer = json.loads(result.stdout)
    assert_keys("search", answer)
    assert_keys("search: results", answer["results"])
    return answer


def found(answer: Any) -> list[tuple[str, float]]:
    return [(hit["text"] or hit["name"], hit["score"]) for hit in answer["results"]]


def best(query: torch.Tensor, candidates: torch.Tensor, names: list[str]) -> list[tuple[str, Any]]:
    """Every candidate with its product, the best first."""
    scores = (candidates @ query).tolist()
    order = sorted(range(len(names)), key=lambda at: -scores[at])
    return [(names[at], pytest.approx(scores[at], abs=1e-6)) for at in order]


PICTURES = [f"data/{n}.png" for n in range(len(SAYS))]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_one_field_finds_pictures_texts_and_pictures_like_it() -> None:
    model = workbench.load("run")
    images, texts = model.encode_image(PICTURES), model.encode_text(SAYS)
    told = model.encode_text(["a blue kite"])[0]
    answer = search("--text", "a blue kite", "--images", "data", "--top", "4")
    assert found(answer) == best(told, images, PICTURES)[:4]
    assert (answer["among"]["candidates"], answer["bad"]["number"]) == (9, 0)
    assert found(search("--image", PICTURES[1], "--texts", "lines.txt", "--top", "99")) == best(images[1], texts, SAYS)
    alike = found(search("--image", PICTURES[5], "--images", "data"))
    assert alike == best(images[5], images, PICTURES)
    assert alike[0] == (PICTURES[5], pytest.approx(1, abs=1e-5))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_several_fields_ask_by_their_fusion_and_rows_that_lack_the_field_are_counted(home: Path) -> None:
    model, numbers = workbench.load("run"), np.array([1, -2, 0.5, 3], np.float32)
    np.save("numbers.npy", numbers)
    asked = model.encode({"photo": [PICTURES[3]], "sensor": [numbers]}, ["photo+sensor"])["photo+sensor"][0]
    query = ("--image", PICTURES[3], "--query", "sensor=numbers.npy")
    answer = search(*query, "--among", "text=run/recipe.yaml", "--sheet", "sheet.png")
    there = [says for n, says in enumerate(SAYS) if n % 4]
    assert found(answer) == best(asked, model.encode_text(there), there)
    assert (answer["among"]["missing"], answer["asked_by"]) == (3, ["photo+sensor"])
    assert Image.open("sheet.png").width > 500
    data = ("--set", "fields.text.from=says", "--set", "fields.sensor={kind: vector, from: sensor}")
    assert found(search(*query, "--among", "text=data", *data)) == found(answer)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_file_of_embeddings_is_searched_by_exact_products_and_by_faiss(home: Path) -> None:
    def embed(out: str, *words: str) -> None:
        words = ("run/recipe.yaml", "--with", "run", "--out", out, *words)
        result = CliRunner().invoke(cli, ["embed", *words])
        assert result.exit_code == 0, result.output

    embed("shared.parquet", "--shared")
    model = workbench.load("run")
    told, images = model.encode_text(["grey tower"])[0], model.encode_image(PICTURES)
    rows = [f"row {n}" for n in range(9)]
    query = ("--text", "grey tower", "--among", "photo=shared.parquet")
    assert found(search(*query, "--top", "5")) == best(told, images, rows)[:5]
    embed("pooled.parquet")
    assert "cannot be compared" in search("--text", "x", "--among", "photo=pooled.parquet", status=1)
    other = json.loads(json.dumps(TREE)) | {"seed": 1}
    train(parse_recipe(other), home / "other")
    told_by_another = CliRunner().invoke(cli, ["search", "other", *query])
    assert told_by_another.exit_code == 1
    assert "comes from other weights" in told_by_another.stderr
    pytest.importorskip("faiss")
    assert found(search(*query, "--top", "5", "--index", "faiss")) == best(told, images, rows)[:5]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_of_equal_scores_the_earlier_one_stands_above() -> None:
    Path("twice.txt").write_text("b\na\na\nb\na\n")
    names = [hit["name"] for hit in search("--text", "a", "--texts", "twice.txt", "--top", "3")["results"]]
    assert names == ["twice.txt:2", "twice.txt:3", "twice.txt:5"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_what_cannot_be_read_is_counted_and_what_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = search("--text", "x", "--images", "mixed")
    assert [hit["name"] for hit in answer["results"]] == ["mixed/below/good.JPG"]
    assert answer["bad"]["number"] == 1
    assert answer["bad"]["first"][0]["name"] == "mixed/broken.jpg"
    asked = Search(Path("run"))
    for query, field, where, said in (
        ({"text": "x"}, "photo", "empty", "empty has no picture (.jpg, .jpeg, .jfif, .jpe, ...): it is empty"),
        ({"text": "x"}, "photo", "nowhere", "nowhere is not there"),
        ({"text": "x"}, "photo", "mixed/broken.jpg", "has no picture that can be read: the first is"),
        ({"photo": Path("mixed/broken.jpg")}, "text", "lines.txt", "the query's photo cannot be read: not a picture"),
        ({"sound": "x"}, "photo", "data", "no field 'sound': it has photo (image), text (text), sensor (vector)"),
        ({"text": "x"}, "sound", "data", "no field 'sound'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            asked.answer(query, field, where)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install faiss-cpu" in search("--text", "x", "--images", "data", "--index", "faiss", status=1)


@pytest.mark.parametrize(
    "words",
    [
        ("--images", "data"),
        ("--text", "x"),
        ("--text", "x", "--images", "data", "--texts", "lines.txt"),
        ("--query", "text", "--images", "data"),
    ],
    ids=["no query", "no place", "two places", "no value"],
)
def test_a_wrong_command_is_refused(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(cli, ["search", "run", *words]).exit_code == 2


def test_a_query_is_a_text_or_a_file(tmp_path: Path) -> None:
    assert query_item("text", "a cat") == "a cat"
    assert query_item("image", __file__) == Path(__file__)
    for kind, said, why in (("text", " ", "empty"), ("image", str(tmp_path), "a folder"), ("audio", "a", "not there")):
        with pytest.raises(ValueError, match=why):
            query_item(kind, said)


def test_a_query_is_never_cut_short() -> None:
    """Of terms text ~ photo and photo ~ sensor, text tells nothing of the sensor: a cosine with photo alone would."""
    terms = [{"between": ["text", "photo"]}, {"between": ["photo", "sensor"]}]
    objective = build_objective(parse_recipe(TREE | {"objective": {"name": "terms", "terms": terms}}))
    assert [str(side) for side in find_question(objective, ("photo",), "sensor").query] == ["photo"]
    with pytest.raises(ValueError, match=r"finds sensor from photo \+ text together: ask with photo"):
        find_question(objective, ("photo", "text"), "sensor")
    like = find_question(objective, ("photo", "text"), "photo")
    assert ([str(side) for side in like.query], str(like.candidates)) == (["photo", "text"], "photo")
