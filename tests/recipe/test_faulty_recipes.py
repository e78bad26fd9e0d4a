"""Recipes as people get them wrong: encodings, numbers that are none, names, parents, overrides, code of their own."""

from __future__ import annotations

import codecs
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.recipe.schema import Recipe, RecipeError, load_recipe
from workbench.recipe.yaml_file import recipe_names, shipped_recipes
from workbench.runs.cost import assemble

GOOD = """\
name: small
data: {name: synthetic, task: xor}
model: {dim: 16, encoders: {a: mlp, b: mlp, c: mlp}}
objective: clip
train: {for: 3 epochs, batch: 64}
"""


def write(folder: Path, text: str | bytes, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def said_of(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def load_with(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(write(folder, GOOD), overrides)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_files_with_and_without_a_mark_are_read(tmp_path: Path, encoding: str) -> None:
    text = GOOD.replace("name: small", "name: größe-🚀").replace("\n", "\r\n")
    assert load_recipe(write(tmp_path, text.encode(encoding))).name == "größe-🚀"


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (
            GOOD.encode() + "# caf\xe9\n".encode("latin-1"),
            "r.yaml:6: ",
            "not UTF-8 (byte 0xe9): save the file as",
        ),
        (GOOD.encode("utf-16-le"), "r.yaml:1: ", "'\\x00' may not stand in YAML"),
        (codecs.BOM_UTF16_LE + GOOD.encode("utf-16-le") + b"\n", "r.yaml:", "not UTF-16"),
        (b"\x1f\x8b\x08\x00\xff\xfe" * 9, "r.yaml:1: ", "not UTF-8"),
        (b"name: x\n" * 2**16, "r.yaml: ", "more than 262,144 bytes"),
        (GOOD.encode() + b"seed: 1 # \x1b[0m\n", "r.yaml:6: ", "'\\x1b' may not stand in YAML"),
    ],
)
def test_files_in_another_encoding(tmp_path: Path, content: bytes, place: str, words: str) -> None:
    said = said_of(write(tmp_path, content))
    assert said.startswith(f"{tmp_path}/{place}")
    assert words in said


def test_a_folder_and_a_file_that_cannot_exist_are_no_recipes(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / ("x" * 300), Path(), tmp_path / "a\0b"):
        assert "no such recipe" in said_of(path)


@pytest.mark.parametrize(
    "text",
    [
        "train: {lr: true}",
        "train: {betas: [0.9, off]}",
        "train: {microbatch: yes}",
        "seed: on",
        "model: {encoders: {a: {name: mlp, width: true}}}",
    ],
)
def test_true_is_no_number(tmp_path: Path, text: str) -> None:
    write(tmp_path, GOOD, "good.yaml")
    said = said_of(write(tmp_path, f"extends: good.yaml\n{text}\n"))
    assert "expected a number (got " in said
    assert "r.yaml:2: " in said


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("seed: 010", lambda r: r.seed == 10),
        ("log: {tensorboard: off}", lambda r: r.log.tensorboard is False),
        ("name: 2024-01-02", lambda r: r.name == "2024-01-02"),
        ("name: 007", lambda r: r.name == "007"),
        ("x-tower: &t {name: mlp, width: 8}\nmodel: {encoders: {a: {<<: *t, depth: 2}, b: *t}}", lambda r: _widths(r)),
    ],
)
def test_values_are_read_as_a_person_means_them(tmp_path: Path, text: str, read) -> None:
    write(tmp_path, GOOD, "good.yaml")
    assert read(load_recipe(write(tmp_path, f"extends: good.yaml\n{text}\n")))


def _widths(recipe: Recipe) -> bool:
    a, b = (recipe.model.encoders[m].as_dict() for m in "ab")
    return (a["width"], a["depth"], b["width"], b["depth"]) == (8, 2, 8, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1:30", "seed: Input should be a valid integer"),
        ("seed: 2024-13-45", "seed: Input should be a valid integer"),
        ("seed: .nan", "seed: "),
        ("train: {lr: .inf}", "train.lr: expected a finite number"),
        ("train: {lr: 1e400}", "train.lr: expected a finite number"),
        ("train: {for: 1e400 steps}", "train.for: '1e400 steps' would never end"),
        ("train: {warmup: 1.2.3 epochs}", "train.warmup: '1.2.3 epochs' is not a duration"),
        ("eval: {every: -1 epochs}", "eval.every: '-1 epochs' is not a duration"),
        ("parallel: {timeout: 1e400 hours}", "parallel.timeout: '1e400 hours' is no time to wait"),
        ("model: {dim: 99999999999999999999}", "model.dim: Input should be less than or equal to 2147483648"),
        ("name: 12", "name: expected a text: put it in quotes (got 12)"),
        ("name: no", "name: expected a text: put it in quotes (got False)"),
        ("train: 3 epochs", "train: expected a block of keys (got '3 epochs')"),
        ("train: [for]", "train: expected a block of keys"),
        ("model: {encoders: [mlp]}", "model.encoders: expected a block of keys"),
        ("objective: [clip]", "objective: expected the name of one objective, or a block with a name"),
        ("eval: {patience: 3}", "eval.patience: unknown key 'patience', and no evaluator of this name"),
        ("eval: {evry: 3 epochs}", "did you mean"),
        (
            "eval: {strat: false}",
            "no evaluator of this name; did you mean 'start'",
        ),
        ("eval: {evaluators: {}}", "eval.evaluators: unknown key 'evaluators'"),
        ("train: {epochs: 3}", "train.epochs: unknown key 'epochs'; did you mean 'for'?"),
        ("train: {accum_freq: 4}", "did you mean 'microbatch'?"),
        ("train: {batch_size: 4}", "did you mean 'batch'?"),
        ("parallel: {num_workers: 4}", "did you mean 'workers'?"),
    ],
)
def test_wrong_values_are_named_in_plain_words(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, GOOD, "good.yaml")
    said = said_of(write(tmp_path, f"extends: good.yaml\n{text}\n"))
    assert said.startswith(f"{tmp_path}/r.yaml:2: ")
    assert words in said, said


def test_what_is_missing_is_said_with_the_file_and_its_meaning(tmp_path: Path) -> None:
    said = said_of(write(tmp_path, "name: x\ndata: emoji\nmodel: {encoders: {image: open_clip}}\nobjective: clip\n"))
    assert said == f"{tmp_path}/r.yaml: train: is missing: a block with for and batch"
    said = said_of(write(tmp_path, GOOD.replace("for: 3 epochs, ", "")))
    assert said == f"{tmp_path}/r.yaml:5: train.for: is missing: the length of training, as '30 epochs'"


def test_a_long_wrong_value_is_not_repeated_whole(tmp_path: Path) -> None:
    assert len(said_of(write(tmp_path, GOOD.replace("clip", "[" + "clip, " * 1000 + "]")))) < 600


@pytest.mark.parametrize("name", ["''", "' '", "../../x", "/tmp/x", "a/../b", "a//b", ".", "..", '"a\\nb"', '"a\\tb"'])
def test_a_name_that_leads_out_of_runs_is_refused(tmp_path: Path, name: str) -> None:
    said = said_of(write(tmp_path, GOOD.replace("small", name)))
    assert f"{tmp_path}/r.yaml:1: name: the run's folder below runs/ has this name" in said


def test_a_name_that_is_too_long_for_a_folder_is_refused(tmp_path: Path) -> None:
    assert "the run's folder" in said_of(write(tmp_path, GOOD.replace("small", "ü" * 130)))


@pytest.mark.parametrize("name", ["sweep/lr-3", "größe", "a b", "v1.2", "実験"])
def test_names_of_folders_are_names(tmp_path: Path, name: str) -> None:
    assert load_recipe(write(tmp_path, GOOD.replace("small", name))).name == name


@pytest.mark.parametrize(("batch", "microbatch"), [(64, "1e10"), (2**31, 2**30 - 1), (2_147_483_629, 2_000_000_000)])
def test_a_micro_batch_of_any_size_is_answered_at_once(tmp_path: Path, batch: int, microbatch: object) -> None:
    said = said_of(write(tmp_path, GOOD), f"train.batch={batch}", f"train.microbatch={microbatch}")
    assert "train.microbatch=" in said if microbatch != "1e10" else "less than or equal to" in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.encoders.a={name: mlp, depth: 2000000000}", "more than 4,096 depth"),
        ("model.fusion={name: transformer, layers: 1e18}", "more than 4,096 layers"),
        ("model.fusion={name: transformer, heads: 99999}", "more than 4,096 heads"),
        (
            "model.encoders.a={name: open_clip, config: {width: 8, layers: 300000000}}",
            "more than 4,096 layers",
        ),
        ("model.dim=2000000000", "more bytes than can be counted"),
        ("model.encoders.a={name: mlp, width: 9e17, depth: 3}", "more bytes than can be counted"),
    ],
)
def test_sizes_without_end_are_refused_at_once(tmp_path: Path, override: str, words: str) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(RecipeError) as caught:
        assemble(load_recipe(path, ("model.encoders.b={name: mlp, width: 2000000000, depth: 2}", override)))
    assert words in str(caught.value)


# parents


def test_a_shipped_recipe_is_a_parent_by_its_name(tmp_path: Path) -> None:
    for parent in ("emoji_ito.yaml", "emoji_ito", "recipes/emoji_ito.yaml", str(shipped_recipes() / "emoji_ito.yaml")):
        recipe = load_recipe(write(tmp_path, f"extends: {parent}\nname: mine\n"))
        assert recipe.as_dict() == load_recipe("emoji_ito.yaml").as_dict() | {"name": "mine"}


def test_a_file_beside_comes_before_a_shipped_one_and_may_extend_its_namesake(tmp_path: Path) -> None:
    mine = write(tmp_path, "extends: emoji_ito.yaml\nseed: 3\n", "emoji_ito.yaml")
    assert load_recipe(mine).as_dict() == load_recipe("emoji_ito.yaml").as_dict() | {"seed": 3}
    assert load_recipe(write(tmp_path, "extends: emoji_ito.yaml\nname: x\n")).seed == 3


def test_relative_parents_start_from_the_file_not_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write(tmp_path / "in", GOOD)
    child = write(tmp_path / "in" / "deep", "extends: ../r.yaml\nseed: 5\n")
    monkeypatch.chdir("/")
    assert load_recipe(child).seed == 5


def test_circles_of_parents_are_refused_through_links_too(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    (tmp_path / "b.yaml").symlink_to(tmp_path / "a.yaml")
    assert "extends itself through" in said_of(tmp_path / "a.yaml")


@pytest.mark.parametrize("value", ["", "[a, b]", "3", "{a: b}", "''"])
def test_a_parent_that_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    assert "r.yaml:1: extends: write the path of one recipe" in said_of(write(tmp_path, f"extends: {value}\n{GOOD}"))


def test_a_missing_parent_is_told_with_the_nearest_shipped_one(tmp_path: Path) -> None:
    said = said_of(write(tmp_path, f"extends: emoji_itto.yaml\n{GOOD}"))
    assert "did you mean 'emoji_ito.yaml'?" in said


# evaluators


def evaluators(recipe: Recipe) -> list[str]:
    return list(recipe.eval.evaluators)


def test_null_drops_an_inherited_evaluator(tmp_path: Path) -> None:
    assert evaluators(load_recipe("emoji_confu.yaml")) == [
        "validation",
        "concepts",
        "style",
        "zeroshot",
        "gap",
        "probe",
    ]
    left = ["validation", "concepts", "style", "gap"]
    assert evaluators(load_recipe("emoji_confu.yaml", ("eval.probe=null", "eval.zeroshot=~"))) == left
    child = write(tmp_path, "extends: emoji_confu.yaml\neval: {probe: null, zeroshot: ~}\n")
    assert evaluators(load_recipe(child)) == left
    # what is dropped is gone: a further key of it is that of a new one
    again = load_recipe(child, ("eval.probe={name: probe, label: group}",))
    assert again.eval.evaluators["probe"].as_dict()["limit"] == 2000


def test_an_evaluator_without_a_value_has_its_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD + "eval:\n  synthetic:\n  gap: {}\n"))
    assert evaluators(recipe) == ["synthetic", "gap"]


def test_dropping_what_is_not_there_is_a_slip_of_the_pen(tmp_path: Path) -> None:
    said = said_of(write(tmp_path, GOOD), "eval.prbe=null")
    assert said.startswith("--set eval.prbe=null: eval.prbe: null drops an evaluator that a parent has")


# --set


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("|", "|"),
        ("#", "#"),
        (":", ":"),
        (";", ";"),
        (">", ">"),
        (" ", " "),
        ("\t", "\t"),
        ("*.tar", "*.tar"),
        ("cc12m/*.tar", "cc12m/*.tar"),
        ("{0..3}.tar", "{0..3}.tar"),
        ("{00..02}", "{00..02}"),
        ("{a,b}/*.tar", "{a,b}/*.tar"),
        ("[ab]*.tar", "[ab]*.tar"),
        ("x [1].csv", "x [1].csv"),
        ("take #1.csv", "take #1.csv"),
        ("%d.csv", "%d.csv"),
        ("@home/x.csv", "@home/x.csv"),
        ("&x y.csv", "&x y.csv"),
        ("!x.csv", "!x.csv"),
        ("'*.csv'", "*.csv"),
        ('"a # b.csv"', "a # b.csv"),
        ("~/x.csv", "~/x.csv"),
        ("C:\\data\\x.csv", "C:\\data\\x.csv"),
        ("ünïcode 🚀.csv", "ünïcode 🚀.csv"),
    ],
)
def test_a_text_on_the_command_line_stands_as_it_is(text: str, value: str) -> None:
    base = ("data={name: csv, path: x.csv, fields: {image: {from: image}, text: {from: caption}}}", f"data.path={text}")
    assert load_recipe("emoji_clip.yaml", base).data.as_dict()["path"] == value


def test_lists_blocks_and_keys_that_yaml_takes_for_booleans(tmp_path: Path) -> None:
    recipe = load_recipe("emoji_clip.yaml", ("eval.p={name: probe, label: group, on: [image]}", "eval.p.limit=7"))
    found = recipe.eval.evaluators["p"].as_dict()
    assert (found["on"], found["limit"]) == (["image"], 7)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("eval.p={name: probe, on: [image}", "not YAML"),
        ("eval.p={name: probe", "not YAML"),
        ("data.path='x.csv", "not YAML"),
        ("train.betas=[0.9, 0.98", "not YAML"),
        ("train.lr", "write key=value"),
        ("=3", "write key=value"),
        ("train..lr=3", "write key=value"),
        ("train.=3", "write key=value"),
        ("train.lr=", "train.lr"),
        ("data.path=a: b", "data.path"),
    ],
)
def test_a_slip_on_the_command_line_is_one_message(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=r"^--set ") as caught:
        load_recipe("emoji_clip.yaml", (override,))
    assert words in str(caught.value)


# code of one's own

OBJECTIVE = """
from workbench.objectives.clip import CLIP
{extra}
class Mine(CLIP):
    '''Mine.'''
"""


def test_a_class_is_found_beside_the_recipe_and_the_resolved_recipe_names_the_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OBJECTIVE.format(extra=""), "mine.py")
    recipe = load_recipe(write(tmp_path, GOOD.replace("objective: clip", "objective: mine.py:Mine")))
    assert recipe.objective.as_dict()["name"] == f"{tmp_path}/mine.py:Mine"
    monkeypatch.chdir("/")
    assert load_recipe(write(tmp_path, recipe.as_yaml(), "resolved.yaml")).as_dict() == recipe.as_dict()


def test_two_files_of_one_name_are_two_modules_and_see_what_lies_beside_them(tmp_path: Path) -> None:
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, f"VALUE = {value}\n", f"helper_{folder}.py")
        text = OBJECTIVE.format(extra=f"from helper_{folder} import VALUE")
        write(tmp_path / folder, text, "mine.py")
    built = [
        load_recipe(write(tmp_path, GOOD.replace("objective: clip", f"objective: {f}/mine.py:Mine"))).objective.build(
            "ab"
        )
        for f in ("one", "two")
    ]
    modules = [sys.modules[type(objective).__module__] for objective in built]
    assert [module.VALUE for module in modules] == [1, 2]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class Mine(:\n", "invalid syntax"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
        ("raise SystemError('x')\n", "SystemError: x"),
        ("class Mine:\n    pass\n", "the class has no method 'forward', so it is no objective"),
        ("def Mine(): ...\n", "has no class 'Mine'"),
        (
            "class Mine:\n    def forward(self): ...\n    def __init__(self, m, *, x: 'Nope'): ...\n",
            "cannot be checked",
        ),
        ("import sys\nsys.exit()\n", "SystemExit"),
    ],
)
def test_broken_code_of_ones_own_is_one_message(tmp_path: Path, code: str, words: str) -> None:
    write(tmp_path, code, "mine.py")
    said = said_of(write(tmp_path, GOOD.replace("objective: clip", "objective: mine.py:Mine")))
    assert said.startswith(f"{tmp_path}/r.yaml:4: objective.name: ")
    assert words in said, said


@pytest.mark.parametrize("name", [".x:Y", ":Y", "':'", "x.py:é", "os:path", "collections:OrderedDict", "a b:C", "é:È"])
def test_names_that_lead_to_no_class(tmp_path: Path, name: str) -> None:
    assert "objective" in said_of(write(tmp_path, GOOD.replace("objective: clip", f"objective: {name}")))


def test_a_class_that_takes_other_arguments_is_told_so(tmp_path: Path) -> None:
    write(tmp_path, "class Mine:\n    def forward(self): ...\n    def __init__(self, one, two): ...\n", "mine.py")
    recipe = load_recipe(write(tmp_path, GOOD.replace("objective: clip", "objective: mine.py:Mine")))
    with pytest.raises(RecipeError, match="its class cannot be built so: missing a required argument: 'two'"):
        recipe.objective.build(("a", "b"))


@pytest.mark.slow
def test_every_shipped_recipe_reads_back_as_it_is_written() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        text = recipe.as_yaml()
        folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        assert load_recipe(write(folder, text)).as_dict() == recipe.as_dict(), name
        shutil.rmtree(folder)
