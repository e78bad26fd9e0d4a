"""`wb ls`: what is on the disk is what is listed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import workbench
from workbench.cli import cli


def ls(*arguments: str) -> list[dict]:
    result = CliRunner().invoke(cli, ["ls", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [("encoder", "encoders"), ("fusion", "fusion"), ("objectives", "objectives"), ("data", "data"), ("evals", "evals")],
)
def test_components_are_the_files_of_their_folder(kind: str, folder: str) -> None:
    files = (Path(workbench.__file__).parent / folder).glob("[a-z]*.py")
    rows = ls(kind)
    assert [row["name"] for row in rows] == sorted(file.stem for file in files)
    assert all(len(row["summary"]) > 20 for row in rows)


def test_recipes_say_how_they_are_run() -> None:
    rows = {row["name"]: row["summary"] for row in ls("recipes")}
    assert "synth/confu.yaml" in rows
    assert not any("_base" in name for name in rows)
    assert all("wb " in summary for summary in rows.values()), rows


def test_without_a_kind_the_kinds_and_each_can_be_listed() -> None:
    kinds = [row["name"] for row in ls()]
    assert kinds == ["encoder", "fusion", "objective", "data", "eval", "callback", "task", "recipe", "run"]
    for kind in kinds:
        assert CliRunner().invoke(cli, ["ls", kind]).exit_code == 0


def test_runs_with_their_headline(tmp_path: Path) -> None:
    assert ls("run", "--dir", str(tmp_path)) == []
    for name, best, done in (("one", "retrieval/mean_recall", True), ("deep/two", None, False)):
        run = tmp_path / name
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(json.dumps({"name": "tiny", "eval": {"best": best}}))
        records = [
            {"step": 0, "samples": 0, "eval/gap/l2m": 0.5, "eval/retrieval/mean_recall": 0.25},
            {"step": 7, "samples": 70, "train/loss": 1.0},
            {"step": 8, "samples": 80, "eval/gap/l2m": 0.75, "eval/retrieval/mean_recall": 0.125},
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 9, "tra')
        if done:
            (run / "DONE").touch()
    common = {"recipe": "tiny", "step": 8}
    found = sorted(ls("runs", "--dir", str(tmp_path)), key=lambda row: row["name"])
    assert found == [
        {"name": "deep/two", **common, "finished": False, "metric": "gap/l2m", "value": 0.75},
        {"name": "one", **common, "finished": True, "metric": "retrieval/mean_recall", "value": 0.125},
    ]


def test_an_unknown_kind_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["ls", "objektive"])
    assert result.exit_code == 2
    assert "did you mean 'objective'?" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "name: mine",
        "- a\n- list",
        "eval: {}",
        "{name: x, eval: null}",
        "a: [",
        b"name: caf\xe9",
        "just words",
        "name: x\x07",
    ],
)
def test_a_recipe_of_something_else_is_left_out_with_a_line_and_costs_no_run(
    tmp_path: Path, content: str | bytes
) -> None:
    """An empty file, or one without `eval`, ended the whole list in a traceback."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text(json.dumps({"name": "tiny", "eval": {"best": None}}))
    foreign = tmp_path / "other" / "recipe.yaml"
    foreign.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = CliRunner().invoke(cli, ["ls", "run", "--dir", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert [row["name"] for row in json.loads(result.stdout)] == ["mine"]
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["left out"]
    assert str(foreign.parent) in result.stderr
    alone = CliRunner().invoke(cli, ["show", "run", str(foreign.parent)])
    assert alone.exit_code == 1
    assert alone.stderr.startswith("error: ")
    assert "Traceback" not in alone.stderr
