"""Stand-ins for modules: what is not used is not imported, what is used is the real thing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from workbench.postponed import Later, postponed

HEAVY = {
    "heavy/__init__.py": "class Model:\n    @staticmethod\n    def make(size=1):\n        return [size]\nversion = '3'",
    "heavy/part.py": "class Result(dict):\n    pass\ndef twice(x):\n    return 2 * x",
    "heavy/other.py": "from heavy.part import twice\nfour = twice(2)",
}
LIBRARY = """
import inspect
import heavy
from heavy import Model
from heavy.part import Result, twice

inspect.getmodule(inspect.currentframe())  # asks every module for its file

def make(size): return Model.make(size=size)
def is_result(x): return isinstance(x, Result)
def version(): return heavy.version
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "heavy").mkdir()
    for name, content in HEAVY.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("heavy", "library")]:
        del sys.modules[name]


def real(name: str) -> bool:
    return name in sys.modules and not isinstance(sys.modules[name], Later)


@pytest.mark.usefixtures("folder")
def test_a_module_is_imported_when_it_is_used_first() -> None:
    with postponed("heavy", "heavy.part"):
        library = importlib.import_module("library")
    assert "heavy" not in sys.modules
    assert "heavy.part" not in sys.modules
    assert library.make(3) == [3]
    assert real("heavy")
    assert not real("heavy.part")
    assert library.twice(4) == 8
    assert library.is_result(sys.modules["heavy.part"].Result())
    assert not library.is_result({})
    assert library.version() == "3"


@pytest.mark.parametrize("needed", ["from heavy.other import four", "from heavy import part; four = part.twice(2)"])
def test_more_of_a_package_than_is_postponed_is_the_real_thing(folder: Path, needed: str) -> None:
    (folder / "library.py").write_text(f"from heavy.part import twice\n{needed}")
    with postponed("heavy.part"):
        library = importlib.import_module("library")
    assert library.four == library.twice(2) == 4
    assert real("heavy.part")


def test_a_part_of_a_library_stays_postponed_while_the_library_is_imported(folder: Path) -> None:
    (folder / "heavy" / "__init__.py").write_text("from heavy import part\nfrom heavy.part import twice")
    with postponed("heavy.part"):
        library = importlib.import_module("heavy")
    assert not real("heavy.part")
    assert library.part.Result() == {}
    assert real("heavy.part")
    assert library.twice(2) == 4


def test_what_is_used_at_once_is_the_real_thing(folder: Path) -> None:
    (folder / "library.py").write_text("import heavy\nfrom heavy.part import twice\nsix = twice(3)")
    with postponed("heavy", "heavy.part"):
        library = importlib.import_module("library")
    assert library.six == 6
    assert real("heavy")


def test_what_is_not_installed_cannot_be_imported(folder: Path) -> None:
    (folder / "library.py").write_text("try:\n    import heavier\nexcept ImportError:\n    heavier = None")
    with postponed("heavier"):
        assert importlib.import_module("library").heavier is None


@pytest.mark.usefixtures("folder")
def test_what_is_imported_already_is_left_alone() -> None:
    before = importlib.import_module("heavy.part")
    with postponed("heavy", "heavy.part"):
        assert importlib.import_module("heavy.part") is before
    assert sys.modules["heavy.part"] is before


def test_functions_that_are_not_to_be_compiled_say_so_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "library.py").write_text("import torch\n@torch.compiler.disable\ndef twice(x):\n    return 2 * x")
    disable = torch.compiler.disable
    for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
        monkeypatch.delitem(sys.modules, name)
    with postponed():
        library = importlib.import_module("library")
    assert torch.compiler.disable is disable
    assert library.twice._torchdynamo_disable
    assert not any(name.startswith("torch._dynamo") for name in sys.modules)
    monkeypatch.undo()
    assert library.twice(3) == 6
