"""A run keeps its own classes: it is loaded and resumed with the code it began with, whatever became of the file."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from own_objective import recipe_with

from workbench.errors import RecipeError
from workbench.recipe import component
from workbench.recipe.kept_code import KeptName
from workbench.recipe.schema import Recipe, load_recipe, parse_recipe
from workbench.runs.folder import read_recipe
from workbench.runs.inference import load
from workbench.runs.train import train

OWN = """
from {helper} import WEIGHT
from workbench.terms import Scale, Term, Terms


class Mine(Terms):
    def __init__(self, modalities, *, scale: Scale = Scale()):
        super().__init__(modalities, [Term(between=tuple(modalities), weight=WEIGHT)], scale)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one step in tmp_path/run, of a class in tmp_path/lib/mine.py that imports from beside it."""
    file, helper = tmp_path / "lib" / "mine.py", f"helper_{tmp_path.name}"
    (file.parent / helper).mkdir(parents=True)
    (file.parent / helper / "__init__.py").write_text("from .deep import WEIGHT\n")
    (file.parent / helper / "deep.py").write_text("WEIGHT = 3.0\n")
    (file.parent / "unrelated.py").write_text("")
    file.write_text(OWN.format(helper=helper))
    train(recipe_with(file, 1), tmp_path / "run")
    return tmp_path / "run"


def weight(found: Recipe) -> float:
    objective: Any = found.objective.build(("a", "b"))
    return float(objective.terms[0].weight)


def test_a_run_is_used_from_another_folder_without_the_file(run: Path, tmp_path: Path) -> None:
    copies = sorted(path.name for path in (run / "code").rglob("*.py"))
    assert copies == ["__init__.py", "deep.py", "mine.py"]
    shutil.rmtree(tmp_path / "lib")
    component._load_own.cache_clear()
    moved = run.rename(tmp_path / "elsewhere")
    assert load(moved).sides
    found = read_recipe(moved)
    assert found.objective.name == f"{tmp_path}/lib/mine.py:Mine"
    assert weight(found) == 3
    assert train(load_recipe(moved / "recipe.yaml", ("train.for=2 steps",)), moved).step == 2


def test_a_file_that_has_changed_is_said_and_its_copy_is_used(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "lib" / "mine.py"
    file.write_text(file.read_text().replace("weight=WEIGHT", "weight=5.0"))
    component._load_own.cache_clear()
    with pytest.warns(
        UserWarning, match=rf"{file} has changed since the run began: the run's copy is used, {run}/code"
    ):
        assert weight(read_recipe(run)) == 3
    with pytest.warns(UserWarning, match="has changed"):
        outcome = train(recipe_with(file, 2), run)
    assert outcome.parts.objective.total_weight == 3
    next((run / "code").rglob("mine.py")).unlink()  # the remedy that the warning names
    said: list[str] = []
    assert train(recipe_with(file, 3), run, say=said.append).parts.objective.total_weight == 5
    assert any("the code of mine.py:Mine is not the one that the run began with" in line for line in said)
    assert weight(read_recipe(run)) == 5


def test_another_file_beside_the_copy_does_not_take_its_place(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = next((tmp_path / "lib").rglob("deep.py"))
    deep.write_text("WEIGHT = 70.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    for name in [name for name in sys.modules if name.startswith("helper_")]:  # as in a new process
        monkeypatch.delitem(sys.modules, name)
    component._load_own.cache_clear()
    assert weight(read_recipe(run)) == 3


def test_the_commit_is_kept_with_whether_the_file_differs_from_it(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    file = tmp_path / "mine.py"
    file.write_text(OWN.replace("from {helper} import WEIGHT", "WEIGHT = 1.0"))

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    git("add", "mine.py")
    git("commit", "-qm", "one")
    for change in ("", "# not committed\n"):
        file.write_text(file.read_text() + change)
        train(recipe_with(file, 0), tmp_path / f"run{change[:1]}")
        found = json.loads((tmp_path / f"run{change[:1]}" / "code.json").read_text())["files"][str(file)]
        assert found["commit"] == git("rev-parse", "HEAD").strip() + ("+changes" if change else "")


def test_a_name_with_its_copy_can_be_handed_to_another_process() -> None:
    name = pickle.loads(pickle.dumps(KeptName("/a/mine.py:Mine", Path("/r/code/a-1/mine.py"))))
    assert name == "/a/mine.py:Mine"
    assert name.copy == Path("/r/code/a-1/mine.py")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of one's own, in no site-packages: its name."""
    name = f"lab_{tmp_path.name}"
    (tmp_path / "src" / name).mkdir(parents=True)
    (tmp_path / "src" / name / "__init__.py").write_text("")
    (tmp_path / "src" / name / "deep.py").write_text("WEIGHT = 3.0\n")
    (tmp_path / "src" / name / "models.py").write_text(OWN.replace("{helper}", ".deep"))
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    return name


def forget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget a package, as a new process does."""
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    component._load_own.cache_clear()


def test_a_module_of_ones_own_is_kept_with_its_package(
    lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, deep = tmp_path / "run", tmp_path / "src" / lab / "deep.py"
    named = f"{lab}.models"
    train(recipe_with(named, 1), run)
    assert sorted(path.name for path in (run / "code").rglob("*.py")) == ["__init__.py", "deep.py", "models.py"]
    deep.write_text(
        "WEIGHT = 5.00\n"
    )  # what it imports; longer, as bytecode of the same second and size is not made anew
    forget(lab, monkeypatch)
    assert weight(recipe_with(named, 2)) == 5
    assert train(recipe_with(named, 2), run).parts.objective.total_weight == 3, "a resume uses the copy"
    shutil.rmtree(tmp_path / "src")
    forget(lab, monkeypatch)
    found = read_recipe(run)
    assert (found.objective.name, weight(found)) == (f"{named}:Mine", 3)


def test_two_classes_of_a_package_share_what_both_import(
    lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / lab
    (package / "settings.json").write_text('{"weight": 3.0}')  # read beside the code, as a vocabulary is
    (package / "deep.py").write_text(
        "import json\nfrom pathlib import Path\n"
        "WEIGHT = json.loads(Path(__file__).with_name('settings.json').read_text())['weight']\nclass Thing:\n    pass\n"
    )
    (package / "watching.py").write_text(
        "from workbench.engine import Callback\nfrom .deep import Thing\n\n\n"
        "class Watch(Callback):\n    thing = Thing\n\n    def on_step(self, engine, logs):\n        pass\n"
    )
    tree = recipe_with(f"{lab}.models", 1).as_dict() | {"callbacks": {"watch": f"{lab}.watching:Watch"}}
    train(parse_recipe(tree), tmp_path / "run")
    assert len(list((tmp_path / "run" / "code").rglob("deep.py"))) == 1
    shutil.rmtree(tmp_path / "src")
    forget(lab, monkeypatch)
    found = read_recipe(tmp_path / "run")
    assert weight(found) == 3
    assert component.load("callback", found.callbacks["watch"].name).thing is sys.modules[f"{lab}.deep"].Thing


def test_a_package_behind_a_link_is_kept_under_the_name_that_is_imported(
    lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "src" / lab
    source.rename(tmp_path / "elsewhere")
    source.symlink_to(tmp_path / "elsewhere")
    train(recipe_with(f"{lab}.models", 0), tmp_path / "run")
    (tmp_path / "elsewhere" / "deep.py").write_text("WEIGHT = 5.00\n")
    forget(lab, monkeypatch)
    assert weight(read_recipe(tmp_path / "run")) == 3


def test_a_copy_that_cannot_be_imported_names_the_remedy(
    lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe_with(f"{lab}.models", 0), tmp_path / "run")
    next((tmp_path / "run" / "code").rglob("deep.py")).unlink()
    forget(lab, monkeypatch)
    with pytest.raises(
        RecipeError, match=r"No module named .*; it is the run's copy: remove .*models\.py, and the orig"
    ):
        read_recipe(tmp_path / "run")


def test_a_module_that_has_changed_is_said(lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(recipe_with(f"{lab}.models", 0), tmp_path / "run")
    file = tmp_path / "src" / lab / "models.py"
    file.write_text(file.read_text().replace("weight=WEIGHT", "weight=5.0"))
    forget(lab, monkeypatch)
    with pytest.warns(UserWarning, match=rf"{file} has changed since the run began: the run's copy is used"):
        assert weight(read_recipe(tmp_path / "run")) == 3


def test_an_installed_module_is_not_kept_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / f"there_{tmp_path.name}.py"
    installed.parent.mkdir()
    installed.write_text(OWN.replace("from {helper} import WEIGHT", "WEIGHT = 1.0"))
    monkeypatch.syspath_prepend(str(installed.parent))
    said: list[str] = []
    train(recipe_with(installed.stem, 0), tmp_path / "run", say=said.append)
    assert any(f"{installed.stem}:Mine is of an installed package" in line for line in said)
    assert not (tmp_path / "run" / "code").exists()
