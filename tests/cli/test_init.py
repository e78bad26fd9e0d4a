"""`wb init`: recipes for data that nobody has described, which train as they are written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from json_keys import assert_keys
from PIL import Image

from workbench.cli import cli
from workbench.inspection.columns import tell_columns
from workbench.inspection.first_look import Facts, look_at, script_of
from workbench.inspection.first_recipe import CPU, GPU, Synergy, choose_objective, write_recipe
from workbench.inspection.look import Inspection
from workbench.recipe.schema import load_recipe
from workbench.runs.train import train
from workbench.studies.synergy import critics

SMALL = (
    "model.encoders.image.config.image_size=32",
    "model.encoders.text.config.width=16",
    "train.for=2 steps",
    "eval.every=2 steps",
    "log.tensorboard=false",
    "parallel.workers=0",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    Path("photos").mkdir()
    for n in range(24):
        Image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8)).save(f"photos/{n}.png")
    return tmp_path


def init(*words: str, status: int = 0) -> Any:
    result = CliRunner().invoke(cli, ["init", *words, "--json"])
    assert result.exit_code == status, result.output
    if status:
        return result.stderr
    printed = json.loads(result.stdout)
    assert_keys("init", printed)
    return printed


@pytest.mark.slow
def test_three_fields_with_gaps_are_trained_and_evaluated_as_the_recipe_says(folder: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [
        {
            "file_name": f"{n}.png",
            "says": None if n % 5 == 1 else f"the thing of {n}",
            "readings": None if n % 4 == 0 else rng.normal(size=6).tolist(),
            "mood": "abc"[n % 3],
        }
        for n in range(24)
    ]
    Path("photos/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = init("photos", "--out", "mine.yaml")
    assert found["fields"] == {"image": "image", "text": "text", "readings": "vector"}
    assert found["data"]["labels"] == {"mood": {"from": "mood"}}
    assert found["found"]["combinations"]["image+text+readings"] == sum(n % 5 != 1 and n % 4 > 0 for n in range(24))
    assert found["objective"] == "confu"
    assert found["next"] == ["wb check mine.yaml --overfit", "wb synergy mine.yaml", "wb pretrain mine.yaml"]
    records = train(load_recipe("mine.yaml", SMALL), None).records
    assert {"train/loss", "eval/retrieval/mean_recall"} <= {key for record in records for key in record}
    before = Path("mine.yaml").read_text()
    assert "is there already" in init("photos", "--out", "mine.yaml", status=2)
    assert Path("mine.yaml").read_text() == before


@pytest.mark.slow
def test_pictures_with_texts_beside_them(folder: Path) -> None:
    for n in range(24):
        Path(f"photos/{n}.txt").write_text(f"картина {n}" if n % 2 else f"a card {n}")
    Path("photos/5.png").write_bytes(Path("photos/7.png").read_bytes())
    Path("elsewhere").mkdir()
    found = init("photos", "--out", "elsewhere/recipe.yaml")
    assert (found["objective"], found["machine"]) == ("clip", "a CPU")
    assert load_recipe("elsewhere/recipe.yaml").data.as_dict()["path"] == str(folder / "photos")
    text = Path("elsewhere/recipe.yaml").read_text()
    assert "2 are there more than once" in text
    assert set(found["scripts"]) == {"LATIN", "CYRILLIC"}


def test_columns_are_told_by_their_cells(folder: Path) -> None:
    lines = [
        f"photos/{n}.png;a film, of {n % 6};{'drama' if n % 2 else 'comedy'};{1990 + 7 * n};{n}" for n in range(24)
    ]
    Path("list.csv").write_text("\n".join(["poster;plot;genre;year;id", *lines]))
    columns = tell_columns({"name": "csv", "path": "list.csv"})
    assert columns is not None
    assert {c.key: c.role for c in columns} == {
        "poster": "image", "plot": "text", "genre": "class", "year": "number", "id": "id"
    }  # fmt: skip
    facts = look_at("list.csv")
    assert facts.block["fields"] == {"image": {"from": "poster"}, "text": {"from": "plot"}}
    assert facts.block["labels"] == {"genre": {"from": "genre"}, "year": {"from": "year", "number": True}}
    assert "100% of the texts are those of another sample" in facts.notes[0]


def test_a_column_of_splits_is_used_and_numbers_are_a_field_where_there_is_no_other(folder: Path) -> None:
    split = ("train", "train", "train", "dev", "test")
    rows = [{"x": n / 2, "y": n * n, "note": f"machine {n} runs", "split": split[n % 5]} for n in range(20)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    facts = look_at("rows.jsonl")
    assert facts.kinds == {"text": "text", "numbers": "vector"}
    assert facts.block["fields"]["numbers"] == {"kind": "vector", "from": ["x", "y"]}
    assert (facts.block["where"], facts.block["validation_where"]) == ({"split": "train"}, {"split": "dev"})
    assert facts.samples == 12


def test_what_cannot_be_trained_on_is_one_message(folder: Path) -> None:
    Path("nothing").mkdir()
    Path("nothing/a.bin").write_bytes(b"x")
    assert "nothing has no metadata.jsonl" in init("nothing", status=1)
    assert "nowhere is not there" in init("nowhere", status=1)
    Path("one.csv").write_text("title\n" + "\n".join(f"a text of {n}" for n in range(20)))
    assert "and its columns seem to be title (text)" in init("one.csv", status=1)
    Path("head.csv").write_text("img,title\n")
    assert "head.csv: a training contrasts two fields" in init("head.csv", status=1)
    Path("cut.parquet").write_bytes(b"PAR1 and no more")
    assert "cut.parquet is no readable parquet file" in init("cut.parquet", status=1)
    Path("few.csv").write_text("img,title\nphotos/1.png,one of them\nphotos/2.png,two of them\n")
    assert "few.csv has 2 usable samples: 8 are needed" in init("few.csv", status=1)
    assert not Path("recipe.yaml").exists()


def facts_of(kinds: dict[str, str], combinations: dict[str, int], per_image: int = 1) -> Facts:
    total = sum(combinations.values())
    fields = {name: sum(n for there, n in combinations.items() if name in there.split("+")) for name in kinds}
    captions = {"per_image": [1, 1, per_image], "number": 0, "tokens": [3, 5, 9], "shared": 0.0}
    images = {"sizes": []}
    found = Inspection(total, 1, total, total, fields, combinations, images, captions, [], {}, 1.0, None)  # type: ignore[arg-type]
    return Facts({"name": "csv", "path": "x.csv", "validation": "10 %"}, kinds, found, {}, 0)


def test_the_objective_is_chosen_by_which_fields_meet() -> None:
    pair, three = {"image": "image", "text": "text"}, {"image": "image", "text": "text", "speech": "audio"}
    four = three | {"sensor": "vector"}
    all_four = "image+text+speech+sensor"
    for machine, kinds, there, chosen in (
        (CPU, pair, {"image+text": 99}, "clip"),
        (GPU, pair, {"image+text": 99}, "ito"),
        (CPU, three, {"image+text+speech": 99}, "confu"),
        (CPU, three, {"image+text+speech": 9, "image+text": 90, "text+speech": 1, "image+speech": 1}, "clip"),
        (CPU, four, {all_four: 99}, "confu_chain"),
        (CPU, three, {"image+text": 50, "text+speech": 50}, "terms"),
    ):
        assert choose_objective(facts_of(kinds, there), machine).name == chosen
    assert choose_objective(facts_of(pair, {"image+text": 99}, per_image=5), CPU).name == "ito"
    text, _ = write_recipe("x", facts_of(pair, {"image+text": 1000}), CPU, "wb pretrain x.yaml")
    assert "batch: 128" in text
    assert "ln 128 = 4.85" in text
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120


def test_the_word_of_a_synergy_chooses_and_its_sentence_is_the_reason() -> None:
    three = facts_of({"image": "image", "text": "text", "speech": "audio"}, {"image+text+speech": 99})
    for word, chosen in (("fuse", "confu"), ("cannot tell", "confu"), ("pairs are enough", "clip")):
        choice = choose_objective(three, CPU, Synergy(word, [f"text: {word}."], 990))
        assert (choice.name, choice.fusion is None) == (chosen, chosen == "clip")
        assert choice.why.endswith(f"wb synergy, of 990 samples: text: {word}.")


@pytest.mark.slow
def test_what_synergy_says_is_the_reason_for_the_objective(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "STEPS", 3)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    rng = np.random.default_rng(2)
    rows = [{name: rng.normal(size=2).tolist() for name in "abc"} for n in range(400)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = init("rows.jsonl", "--out", "mine.yaml", "--synergy")
    assert found["synergy"]["samples"] == 360, "of 400 samples a tenth is held out"
    assert found["objective"] == ("clip" if found["synergy"]["word"] == "pairs are enough" else "confu")
    comment = " ".join(Path("mine.yaml").read_text().replace("\n#", "").split())
    assert all(sentence in comment for sentence in found["synergy"]["sentences"])
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows[:40])))
    few = CliRunner().invoke(cli, ["init", "rows.jsonl", "--out", "few.yaml", "--synergy"])
    assert few.exit_code == 0, few.output
    assert "too few to tell anything at a batch of 16: it takes 320; the objective is chosen without it" in few.stderr


def test_scripts_are_told_by_letters() -> None:
    assert [script_of(letter) for letter in "aЖ漢ひ4 ,"] == ["LATIN", "CYRILLIC", "CJK", "HIRAGANA", None, None, None]
