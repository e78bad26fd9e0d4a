"""A run of a class of one's own is found again when both have moved; other code does not take its place."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_objective import recipe_with

from workbench.errors import RunError
from workbench.recipe import component
from workbench.recipe.schema import Recipe, RecipeError, load_recipe, parse_recipe
from workbench.runs.inference import load
from workbench.runs.train import train

OWN = '''
"""A loss of one's own, with a neighbour."""
from {neighbour} import Scale
from workbench.terms import Term, Terms


class Mine(Terms):
    """One term."""

    def __init__(self, modalities, *, scale: Scale = Scale()):
        super().__init__(modalities, [Term(between=tuple(modalities))], scale)
'''


def make_project(where: Path, code: str) -> Path:
    """Write a project with code, and train a step in its folder runs/one; returns the folder."""
    file = where / code
    file.parent.mkdir(parents=True)
    neighbour = f"beside_{where.name}"
    (file.parent / f"{neighbour}.py").write_text("from workbench.terms import Scale\n")
    file.write_text(OWN.format(neighbour=neighbour))
    train(recipe_with(file, 1), where / "runs" / "one")
    return where


def keep_none(project: Path) -> Path:
    """Leave of a project's run what a version before 0.2 kept of its code: a digest."""
    run = project / "runs" / "one"
    ((file, each),) = json.loads((run / "code.json").read_text())["files"].items()
    (run / "code.json").write_text(json.dumps({f"{Path(file).name}:Mine": each["blake2b"]}))
    shutil.rmtree(run / "code")
    return project


@pytest.mark.parametrize("code", ["mine.py", "lib/losses/mine.py"])
def test_a_project_that_moved_loads_and_resumes_by_the_place_of_its_code(tmp_path: Path, code: str) -> None:
    old = keep_none(make_project(tmp_path / "old", code))
    new = old.rename(tmp_path / "new")
    with pytest.warns(UserWarning, match=rf"old/{code} is not there any more, {new / code} is taken"):
        assert load(new / "runs" / "one").sides
    with pytest.warns(UserWarning, match="is taken"):
        assert train(recipe_with(new / code, 3), new / "runs" / "one").step == 3
    # the new place is written down
    assert str(new / code) in (new / "runs" / "one" / "recipe.yaml").read_text()


def test_code_that_moved_alone_resumes_and_other_code_does_not(tmp_path: Path) -> None:
    old = keep_none(make_project(tmp_path / "old", "mine.py"))
    moved = old / "lib" / "mine.py"
    moved.parent.mkdir()
    (old / "mine.py").rename(moved)
    for neighbour in old.glob("beside_*.py"):
        neighbour.rename(moved.parent / neighbour.name)
    component._load_own.cache_clear()  # as in a new process
    with pytest.raises(RecipeError, match=r"no file .*old/mine\.py: if it has moved, write its new place"):
        load(old / "runs" / "one")
    assert train(recipe_with(moved, 2), old / "runs" / "one").step == 2
    second = moved.with_name("other.py")
    second.write_text(moved.read_text())
    with pytest.raises(RunError, match=r"objective\.name: .*lib/mine\.py:Mine -> .*lib/other\.py:Mine"):
        train(recipe_with(second, 3), old / "runs" / "one")
    moved.rename(old / "kept_elsewhere.py")  # where the old one is gone, a file of another name is another one still
    with pytest.raises(RunError, match=r"objective\.name"):
        train(recipe_with(second, 3), old / "runs" / "one")
    (old / "kept_elsewhere.py").rename(moved)
    copy = old / "mine.py"  # of a name that is there still: it may be another
    copy.write_text(moved.read_text())
    with pytest.raises(RunError, match=r"objective\.name"):
        train(recipe_with(copy, 3), old / "runs" / "one")


def test_code_beside_the_run_wins_over_code_of_the_same_name_further_away(tmp_path: Path) -> None:
    old = keep_none(make_project(tmp_path / "old", "lib/mine.py"))
    new = old.rename(tmp_path / "new")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text("raise SystemExit('the wrong one')")
    with pytest.warns(UserWarning, match=f"{new}/lib/mine.py is taken"):
        found = load_recipe(new / "runs" / "one" / "recipe.yaml")
    assert found.objective.name == f"{new}/lib/mine.py:Mine"


@pytest.mark.slow
def test_a_run_that_moved_is_used_from_any_folder(tmp_path: Path) -> None:
    new = make_project(tmp_path / "old", "mine.py").rename(tmp_path / "new")
    program = f"import workbench; print(workbench.load({str(new / 'runs' / 'one')!r}).sides)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


def test_weights_that_a_run_began_with_may_move_and_their_path_stays(tmp_path: Path) -> None:
    """They are not read again; who writes their new place is told so."""
    first = make_project(tmp_path / "old", "mine.py")
    began = first / "runs" / "one"

    def tuned(steps: int, start: Path) -> Recipe:
        tree = recipe_with(first / "mine.py", steps).as_dict()
        return parse_recipe(tree | {"model": {**tree["model"], "init": str(start)}})

    train(tuned(1, began), tmp_path / "run")
    moved = began.rename(tmp_path / "elsewhere")
    assert train(tuned(2, began), tmp_path / "run").step == 2
    with pytest.raises(RunError, match=r"model\.init\.from: (.|\n)*not read again: leave their path as it was"):
        train(tuned(3, moved), tmp_path / "run")


def test_code_that_was_edited_between_two_starts_is_said(tmp_path: Path) -> None:
    project = keep_none(make_project(tmp_path / "old", "mine.py"))
    said: list[str] = []
    train(recipe_with(project / "mine.py", 2), project / "runs" / "one", say=said.append)
    assert not any("mine.py" in line for line in said)
    (project / "mine.py").write_text((project / "mine.py").read_text() + "# another loss\n")
    for steps in (3, 4):  # each time, as the weights are of both
        said.clear()
        train(recipe_with(project / "mine.py", steps), project / "runs" / "one", say=said.append)
        assert sum("the code of mine.py:Mine is not the one that the run began with" in line for line in said) == 1


def test_a_run_that_has_saved_nothing_begins_with_the_code_as_it_is_now(tmp_path: Path) -> None:
    """As when a loss is edited until its first step works."""
    file, said = tmp_path / "mine.py", list[str]()
    wrong = OWN.format(neighbour="workbench.terms").replace("(modalities))]", "(modalities), weight=0)]")
    file.write_text(wrong.replace("import Scale\nfrom workbench.terms import", "import Scale,"))
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="has weight 0"):
        train(recipe_with(file, 1), run)
    (run / "code.json").write_text('{"mine.py:Mine": "of a start that failed"}')
    file.write_text(file.read_text().replace(", weight=0", ""))
    component._load_own.cache_clear()
    train(recipe_with(file, 1), run, say=said.append)
    assert not any("began with" in line for line in said)
