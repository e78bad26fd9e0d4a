"""Captions that are cut are counted at the length that the recipe's own tower reads, and told with a key that helps."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_pairs import picture, write

from workbench.cli import cli
from workbench.data.csv import CSV

CONTEXT = 8


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of a tower that reads 8 tokens: six words between the marks of begin and end."""
    texts = {n: " ".join(["cat"] * (n + 4)) for n in range(6)}
    members = {f"{n}.{ending}": content for n in range(6) for ending, content in (("png", picture(n)), ("txt", b""))}
    write(tmp_path / "0.tar", {k: v or texts[int(k[0])].encode() for k, v in members.items()})
    text = {"name": "open_clip", "config": {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 1}}
    image = {"name": "open_clip", "config": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1}}
    tree = {
        "name": "x",
        "data": {"name": "shards", "path": str(tmp_path / "0.tar")},
        "model": {"dim": 16, "encoders": {"image": image, "text": text}},
        "objective": "clip",
        "train": {"for": "1 steps", "batch": 4},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    return tmp_path / "r.yaml"


def run(*arguments: object) -> tuple[str, str]:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.mark.slow
def test_inspect_counts_what_the_recipe_cuts(recipe: Path) -> None:
    captions = json.loads(run("data", "inspect", recipe, "--json")[0])["captions"]
    assert (captions["context"], captions["cut"]) == (CONTEXT, pytest.approx(3 / 6))  # of 4 ... 9 words, 7, 8 and 9
    assert f"50.00% are cut at {CONTEXT}" in run("data", "inspect", recipe)[0]
    assert "0.00% are cut at 77" in run("data", "inspect", recipe.parent / "0.tar")[0]


def test_check_says_how_many_and_the_key_that_it_names_helps(recipe: Path) -> None:
    _, said = run("check", recipe)
    assert f"3 of 6 captions that were looked at have more than the {CONTEXT} tokens that encoder 'text' reads" in said
    assert "model.encoders.text.context_length" in said
    assert "captions" not in run("check", recipe, "--set", "model.encoders.text.context_length=11")[1]


def test_check_says_that_no_training_would_start_from_data_that_cannot_be_listed(recipe: Path) -> None:
    (recipe.parent / "0.tar").write_bytes(b"<html>")
    assert "a training would stop at once" in run("check", recipe)[1]


def test_large_data_is_not_listed_for_a_glance(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.inspection.cut_captions.SMALL", 100)
    assert "captions" not in run("check", recipe)[1]


def test_shared_captions_are_told_in_plain_words(tmp_path: Path) -> None:
    members = {"0.png": picture(0), "0.txt": b"same", "1.png": picture(9), "1.txt": b"same"}
    out = " ".join(run("data", "inspect", write(tmp_path / "0.tar", members))[0].split())
    assert "those of another image, too: a loss takes such images for each other's wrong answers" in " ".join(
        out.split()
    )


def test_parts_that_do_not_fit_are_told_with_the_recipe_s_name(recipe: Path) -> None:
    result = CliRunner().invoke(cli, ["check", str(recipe), "--set", "objective=ito"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{recipe}: the objective contrasts image+text: say which module fuses")
    assert run("check", recipe, "--set", "objective=ito", "--set", "model.fusion=transformer")[0] == f"{recipe}: ok\n"


def test_the_remedy_for_shared_captions_gives_such_images_one_id(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    (tmp_path / "a.csv").write_text("filepath,title\n0.png,same\n1.png,same\n2.png,other\n")
    ids = [CSV(path=str(tmp_path / "a.csv"), id="title").sample(n, np.random.default_rng(0)).id for n in range(3)]
    assert ids[0] == ids[1] != ids[2]
