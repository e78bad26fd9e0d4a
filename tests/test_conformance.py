"""The file in which pyright compares components with their contracts names every component that there is."""

import ast
import importlib
from pathlib import Path

import pytest

import workbench
from workbench.recipe.component import KINDS, names

LISTED = ast.parse((Path(workbench.__file__).parent / "conformance.py").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_is_compared_with_its_contract(kind: str) -> None:
    imported = {node.module: node.names for node in ast.walk(LISTED) if isinstance(node, ast.ImportFrom)}
    listed = {
        element.id
        for node in ast.walk(LISTED)
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.List)
        for element in node.value.elts
        if isinstance(element, ast.Name)
    }
    folder = Path(importlib.import_module(KINDS[kind]).__file__ or "").parent
    for name in names(kind):
        file = name.replace("-", "_")
        module = f"{KINDS[kind]}.{file if (folder / f'{file}.py').exists() else f'{file}_'}"
        assert module in imported, f"{kind} {name} has no line in workbench/conformance.py"
        (alias,) = imported[module]
        assert (alias.asname or alias.name) in listed, f"{alias.name} is imported there and compared with nothing"
