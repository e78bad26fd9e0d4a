"""The block `callbacks` of a recipe: its forms say the same, and what is wrong in it is told with the key."""

from pathlib import Path
from typing import Any

import pytest

from workbench.recipe.component import names
from workbench.recipe.schema import Recipe, RecipeError, load_recipe, parse_recipe
from workbench.runs.own_code import record_code

OWN = '''
from workbench.engine import Callback


class Watch:
    """Hears one hook, and inherits from nothing."""

    def __init__(self, *, every: int = 2):
        self.every = every

    def on_step(self, engine, logs): ...


class Deaf(Callback):
    def on_steps(self, engine, logs): ...
'''
BASE = """
name: x
data: {name: synthetic, task: xor, samples: 96}
model: {dim: 4, encoders: {a: mlp, b: mlp, c: mlp}}
objective: clip
train: {for: 8 steps, batch: 24}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watch.py").write_text(OWN)
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def read(folder: Path, block: str, *overrides: str) -> Recipe:
    (folder / "own.yaml").write_text(f"extends: base.yaml\n{block}\n")
    return load_recipe(folder / "own.yaml", overrides)


@pytest.mark.parametrize(
    ("block", "overrides"),
    [
        ("callbacks: {Watch: {name: 'watch.py:Watch', every: 5}}", ()),
        ("callbacks: [{name: 'watch.py:Watch', every: 5}]", ()),
        ("callbacks: {name: 'watch.py:Watch', every: 5}", ()),
        ("callbacks: {Watch: 'watch.py:Watch'}", ("callbacks.Watch.every=5",)),
        ("callbacks: {Watch: {name: 'watch.py:Watch', every: 5}, gone: watch.py:Watch}", ("callbacks.gone=null",)),
    ],
)
def test_all_forms_are_one_recipe_which_runs_again(folder: Path, block: str, overrides: tuple[str, ...]) -> None:
    found = read(folder, block, *overrides)
    expected = {"Watch": {"name": f"{folder}/watch.py:Watch", "every": 5}}
    assert found.as_dict()["callbacks"] == expected
    assert parse_recipe(found.as_dict()).as_dict() == found.as_dict()


@pytest.mark.parametrize("nothing", ["", "callbacks: {}", "callbacks: null", "callbacks: []"])
def test_a_recipe_needs_none(folder: Path, nothing: str) -> None:
    assert read(folder, nothing).callbacks == {}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("callbacks: [wandbb]", "callbacks.wandbb.name: no callback named 'wandbb'; did you mean 'wandb'?"),
        ("callbacks: {trackoi: {}}", "own.yaml:2: callbacks.trackoi: unknown key 'trackoi', and no callback"),
        ("callbacks: {wandb: {projct: x}}", "own.yaml:2: callbacks.wandb.projct: unknown key 'projct'; did you mean"),
        ("callbacks:\n  Watch:\n    name: watch.py:Watch\n    every: often", "own.yaml:5: callbacks.Watch.every"),
        ("callbacks: {a: watch.py:Wacht}", "has no class 'Wacht'; did you mean 'Watch'?"),
        ("callbacks: {a: watch.py:Deaf}", "the class has no method that a run calls; did you mean 'on_step'?"),
        ("callbacks: {a: null}", "null drops a callback that a parent has"),
        ("callbacks: [watch.py:Watch, watch.py:Watch]", "two callbacks are called 'Watch'"),
        ("callbacks: [3]", "is the name of a callback, or a block with a name (got 3)"),
        ("callbacks: 3", "callbacks: expected a block of keys"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(folder: Path, block: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        read(folder, block)
    assert said in str(error.value)


def test_a_blank_key_is_a_callback_with_its_defaults(folder: Path) -> None:
    found = read(folder, "callbacks:\n  trackio:")
    assert found.as_dict()["callbacks"] == {
        "trackio": {"name": "trackio", "project": None, "group": None, "space_id": None}
    }
    assert names("callback") == ["trackio", "wandb"]


def test_the_code_of_a_callback_is_kept_with_the_run(folder: Path) -> None:
    recipe: Any = read(folder, "callbacks: [watch.py:Watch]")
    (folder / "run").mkdir()
    record_code(folder / "run", recipe, print, began=False)
    (copy,) = (folder / "run" / "code").rglob("watch.py")
    assert copy.read_text() == OWN
