"""Files that a recipe names are found from its folder, else from the current one."""

from pathlib import Path

import pytest

from workbench.recipe.schema import load_recipe

RECIPE = """
name: x
data: {{name: {source}, path: {path}, validation: {validation}}}
model: {{encoders: {{image: {{name: open_clip, model: ViT-B-32}}}}, dim: 8, init: weights.pt}}
objective: mine.py:Mine
train: {{for: 1 steps, batch: 8}}
"""
OWN = "from workbench.terms import Terms\nclass Mine(Terms):\n    pass\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files, seen from another one that is empty."""
    project = tmp_path / "project"
    (project / "tars").mkdir(parents=True)
    for name in ("a.csv", "tars/0.tar", "tars/1.tar", "weights.pt"):
        (project / name).write_text("")
    (project / "mine.py").write_text(OWN)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return project


def read(project: Path, path: str, validation: str = "none.csv", source: str = "csv") -> dict[str, object]:
    text = RECIPE.format(source=source, path=path, validation=validation)
    (project / "recipe.yaml").write_text(text.replace("open_clip, model: ViT-B-32", "mlp"))
    tree = load_recipe(project / "recipe.yaml").as_dict()
    return tree["data"] | {"init": tree["model"]["init"]["from"], "own": tree["objective"]["name"]}  # type: ignore[operator, index]


def test_a_file_in_the_recipes_folder_is_found_from_everywhere(project: Path) -> None:
    found = read(project, "a.csv", "../project/a.csv")
    assert found["path"] == str(project / "a.csv")
    assert Path(str(found["validation"])).samefile(project / "a.csv")
    assert found["init"] == str(project / "weights.pt")
    assert found["own"] == f"{project}/mine.py:Mine"


@pytest.mark.parametrize("pattern", ["tars/*.tar", "'tars/{0..1}.tar'", "'{tars,none}/{0,1}.tar'"])
def test_patterns_of_files_too(project: Path, pattern: str) -> None:
    assert read(project, pattern, source="shards")["path"] == f"{project}/{pattern.strip(chr(39))}"


def test_a_range_is_one_of_numbers(project: Path) -> None:
    assert read(project, "'{0..3}'", source="shards")["path"] == "{0..3}", "no file of the folder begins with a digit"


def test_what_is_not_there_is_left_for_the_current_folder(project: Path) -> None:
    Path("b.csv").write_text("")
    found = read(project, "b.csv", "[b.csv, a.csv]")
    assert found["path"] == "b.csv"
    assert found["validation"] == ["b.csv", str(project / "a.csv")]


def test_the_recipes_folder_goes_first_and_that_is_said(project: Path) -> None:
    Path("a.csv").write_text("")
    with pytest.warns(UserWarning, match=rf"'a.csv' is in {project}, the recipe's folder, and in the current one"):
        assert read(project, "a.csv")["path"] == str(project / "a.csv")


def test_in_the_recipes_folder_paths_stay_as_they_are_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert read(project, "a.csv")["path"] == "a.csv"


def test_splits_of_a_hub_are_no_files(project: Path) -> None:
    (project / "test").mkdir()
    assert read(project, "someone/pictures", "test", "hf")["validation"] == "test"


def test_a_parents_paths_are_relative_to_the_parent(project: Path) -> None:
    read(project, "a.csv")
    child = project.parent / "child.yaml"
    child.write_text("extends: project/recipe.yaml\nname: y\n")
    assert load_recipe(child).as_dict()["data"]["path"] == str(project / "a.csv")  # type: ignore[index]
