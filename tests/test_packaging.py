"""What is packaged and how it is told: licences, versions, oldest versions, the commands behind each figure."""

import re
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
import yaml

from workbench import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EMOJI = ROOT / "workbench" / "assets" / "emoji"
FIGURES = (ROOT / "docs" / "measured" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def bounds() -> ModuleType:
    spec = spec_from_file_location("lower_bounds", ROOT / ".ci" / "lower_bounds.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("requirement", "constraint"),
    [
        ("torch>=2.11", "torch==2.11"),
        ("triton>=3.6; sys_platform == 'linux'", "triton==3.6 ; sys_platform == 'linux'"),
        ("webdataset>=0.2.5,<=0.2.86", "webdataset==0.2.5"),
        ("mkdocs <2, >= 1.6", "mkdocs==1.6"),
        ("pyright[nodejs]>=1.1.390", "pyright==1.1.390"),
        ("types-PyYAML", "# types-PyYAML has no lower bound"),
    ],
)
def test_a_constraint_is_the_lower_bound(bounds: ModuleType, requirement: str, constraint: str) -> None:
    assert bounds.constrain(requirement) == constraint


def test_every_dependency_has_a_lower_bound_and_an_unknown_extra_is_named(
    bounds: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PROJECT["dependencies"])
    assert all("==" in line for line in lines)
    with pytest.raises(SystemExit, match=r"no extra devv in pyproject.toml; there are audio, "):
        bounds.main(["devv"])


def test_the_licences_of_all_packaged_drawings_and_words_are_in_the_metadata() -> None:
    told = set(PROJECT["license"].split(" AND "))
    files = [pq.ParquetFile(path) for path in EMOJI.rglob("*.parquet")]
    tables = [file.read(["licence"]) for file in files if "licence" in file.schema_arrow.names]
    rows = {licence for table in tables for licence in table.column(0).unique().to_pylist()}
    assert rows >= {"CC-BY-4.0", "CC-BY-SA-4.0", "MIT"}
    listed = set(re.findall(r"^- ([\w.-]+): ", (EMOJI / "ATTRIBUTION.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert told == listed
    assert rows <= told


def test_every_text_of_a_licence_is_among_the_licence_files() -> None:
    named = {path for pattern in PROJECT["license-files"] for path in ROOT.glob(pattern)}
    assert named == {ROOT / "LICENSE", EMOJI / "ATTRIBUTION.md", *(ROOT / "workbench" / "assets").rglob("*.txt")}


def test_the_changelog_begins_with_this_version_or_what_comes_after_it() -> None:
    heads = re.findall(r"^## ([\w.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert __version__ in heads[:2]


def test_every_measured_figure_has_its_command() -> None:
    rows = [line.split(" | ") for line in FIGURES.splitlines() if line.startswith("| `")]
    named = [file for files, *_ in rows for file in re.findall(r"`([^`]+)`", files)]
    measured = (ROOT / "docs" / "measured").resolve()
    there = {path for path in measured.rglob("*") if path.suffix != ".md"} | set((ROOT / "docs").glob("*.svg"))
    there |= set((ROOT / "docs").glob("*.csv")) | set((ROOT / "docs" / "figures").rglob("*"))
    there = {path for path in there if path.is_file()}
    assert {path.resolve() for name in named for path in measured.glob(name)} == there
    assert all("`" in command for _, command, *_ in rows)


def test_the_commands_of_the_figures_are_there() -> None:
    recipes = set(re.findall(r"^([\w-]+)[^:\n]*:", (ROOT / "Justfile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"just ([\w-]+)", FIGURES)) <= recipes
    for name in re.findall(r"wb sweep (sweeps/\w+)", FIGURES):
        sweep = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert f"runs/{sweep['name']}" in FIGURES
    for module in re.findall(r"python -m ([\w.]+)", FIGURES):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
