"""`wb show`: what it prints is what the program takes."""

import json
import math
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from workbench.cli import cli
from workbench.recipe.documentation import document, spell, split_docstring
from workbench.recipe.schema import load_recipe, parse_recipe
from workbench.recipe.yaml_file import recipe_names
from workbench.terms import Terms


def show(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["show", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_component_is_documented_by_its_source() -> None:
    found = json.loads(show("objective", "ito", "--json"))
    keywords = {k["name"]: k for k in found["block"]["keywords"]}
    assert list(keywords) == ["lambda", "scale", "views", "detach"]
    assert keywords["lambda"]["type"] == "float >= 0"
    assert keywords["lambda"]["default"] == 2.0
    assert "0 builds no fusion module" in keywords["lambda"]["description"]
    assert keywords["views"]["type"] == "zip | all"
    assert keywords["scale"]["default"]["init"] == pytest.approx(1 / 0.07)
    assert [k["name"] for k in found["inner"]["Scale"]["keywords"]] == ["init", "learn", "max", "min"]
    assert Path(found["file"]).name == "ito.py"
    printed = show("objective", "ito")
    assert "zip | all" in printed
    assert "Args:" not in printed


def test_a_source_shows_what_each_kind_of_field_may_say() -> None:
    inner = document("data", "csv").inner
    kinds = {
        "ImageField": "views",
        "TextField": "pick",
        "AudioField": "rate",
        "VectorField": "dim",
        "SequenceField": "dim",
    }
    for name, key in kinds.items():
        keywords = {keyword.name: keyword for keyword in inner[name].keywords}
        assert {"from", "required", "kind", key} <= keywords.keys()
        assert keywords[key].description


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("encoder", name) for name in ("mlp", "sequence", "audio")),
        ("fusion", "mlp"),
        ("objective", "clip"),
        ("data", "synthetic"),
        *(("data", name) for name in ("shards", "folder", "csv", "parquet", "hf")),
        ("eval", "gap"),
        ("callback", "wandb"),
        ("callback", "trackio"),
        ("task", "xor"),
    ],
)
def test_every_keyword_has_a_description_and_the_example_is_valid(kind: str, name: str) -> None:
    found = document(kind, name)
    assert found.block.keywords
    assert all(k.description for k in found.block.keywords), found.block
    example = yaml.safe_load(found.example().replace("<task>", "{name: xor}").replace("MODALITY", "a"))
    base = load_recipe("synth/confu").as_dict()
    if kind == "task":
        example = {"data": {"name": "synthetic"} | example["data"]}
    if kind == "encoder":
        example["model"]["encoders"] |= dict.fromkeys("bc", example["model"]["encoders"]["a"])
    if "model" in example:
        example["model"] = base["model"] | example["model"]
    resolved = parse_recipe(base | example).as_dict()
    for key in example:
        assert _contains(resolved[key], example[key]), (resolved[key], example[key])


def _contains(tree: object, part: object) -> bool:
    if isinstance(tree, dict) and isinstance(part, dict):
        return all(key in tree and _contains(tree[key], item) for key, item in part.items())
    return tree == part


def test_a_component_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    '''Does a thing.\n\n    More on it.\n\n"
        "    Args:\n        strength: how much,\n            in newtons\n    '''\n"
        "    def __init__(self, modalities, *, strength: float): ...\n"
    )
    found = json.loads(show("objective", f"{tmp_path}/mine.py:Mine", "--json"))
    assert found["block"]["text"] == "Does a thing.\n\nMore on it."
    (keyword,) = found["block"]["keywords"]
    assert keyword == {
        "name": "strength",
        "type": "float",
        "default": "required",
        "description": "how much, in newtons",
    }


def test_types_in_words() -> None:
    assert spell({"type": "number", "minimum": 0, "exclusiveMaximum": 1}) == "float >= 0 and < 1"
    assert spell({"anyOf": [{"$ref": "#/$defs/Scale"}, {"type": "null"}]}) == "Scale | null"
    assert spell({"type": "array", "items": {"enum": ["a", "b"]}}) == "list of a | b"
    assert spell({}) == "anything"


def test_a_docstring_goes_on_after_its_arguments() -> None:
    text, arguments = split_docstring(
        "One.\n\nArgs:\n    a: first: with a colon\n    b: second\n        line\n\nRaises ValueError."
    )
    assert text == "One.\n\nRaises ValueError."
    assert arguments == {"a": "first: with a colon", "b": "second line"}


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 4])
def test_the_truth_of_a_task_at_other_options(bits: int) -> None:
    truth = json.loads(show("task", "xor", "--set", f"bits={bits}", "--json"))["truth"]
    assert truth["total_correlation"] == pytest.approx(bits * math.log(2))
    assert truth["chance"] == 2**-bits
    assert f"total_correlation: {bits * math.log(2):.6g}"[:-1] in show("task", "xor", "--set", f"bits={bits}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("synth")])
def test_a_resolved_recipe_runs_as_printed_and_its_expansion_is_the_same_objective(name: str) -> None:
    printed = show("recipe", name, "--set", "train.lr=3e-3")
    recipe = parse_recipe(yaml.safe_load(printed))
    assert recipe.train.lr == 3e-3
    objective = recipe.objective.build(tuple(recipe.model.encoders))
    if not isinstance(objective, Terms):
        assert "is short for" not in printed
        return
    comments = [line.removeprefix("#") for line in printed.splitlines() if line.startswith("#")]
    block = yaml.safe_load("\n".join(line.removeprefix(" ") for line in comments[1:]))
    expanded = parse_recipe(recipe.as_dict() | block).objective.build(tuple(recipe.model.encoders))
    assert isinstance(expanded, Terms)
    assert [(t.between, t.loss, t.weight, t.sides) for t in expanded.terms] == [
        (t.between, t.loss, t.weight, t.sides) for t in objective.terms
    ]
    assert expanded.limits == objective.limits
    assert (expanded.bias is None) == (objective.bias is None)


def test_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "tiny", "eval": {"best": "r/mean"}}))
    values = {0: 0.1, 10: 0.4, 20: 0.3}
    lines = [json.dumps({"step": step, "samples": step, "eval/r/mean": value}) for step, value in values.items()]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = json.loads(show("run", str(tmp_path), "--json"))
    assert found["best"] == {"metric": "r/mean", "value": 0.4, "step": 10}
    assert [r["step"] for r in found["evaluations"]] == [0, 10, 20]
    assert (found["recipe"], found["step"], found["finished"]) == ("tiny", 20, False)
    assert "best, step 10" in show("run", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("objectiv", "ito"), "did you mean 'objective'?"),
        (("objective", "itto"), "did you mean 'ito'?"),
        (("task", "xr"), "did you mean 'xor'?"),
        (("task", "xor", "--set", "bit=3"), "did you mean 'bits'?"),
        (("task", "xor", "--set", "bits=99"), "must be between 1 and 8"),
        (("recipe", "synth/nothing"), "no such recipe"),
        (("objective", "ito", "--set", "lambda=3"), "--set changes a task or a recipe"),
    ],
)
def test_mistakes_are_one_message(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(cli, ["show", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


def test_a_folder_that_is_no_run_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["show", "run", str(tmp_path)])
    assert result.exit_code == 1
    assert "is not a run folder" in result.stderr
