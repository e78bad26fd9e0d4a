"""Recipe files: YAML with line numbers, `extends`, and `--set`, into one plain tree.

The trap: an error in a block that a parent wrote must point into the parent's file, and `--set` has no line at all; so
each key remembers where it was written last, and a bare word remembers it for the key that it is short for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import RecipeError

SHIPPED = Path(__file__).parents[1] / "_recipes"
"""recipes inside the wheel; a source checkout keeps them in recipes/ beside the package"""
SHORT: dict[tuple[str, ...], str] = {("model", "init"): "from"}
"""what a bare word stands for in the place of a block: here, and elsewhere the block's `name`"""
Lines = dict[tuple, str]
"""{path of a key: where it was written}"""


def read_tree(path: str | Path, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], Lines]:
    """`path` merged over its parents, then `key=value` overrides. Raises RecipeError."""
    tree, lines = _read(find_recipe(path), ())
    for override in overrides:
        tree = apply_override(tree, lines, override)
    return tree, lines


def find_recipe(path: str | Path) -> Path:
    """The file itself, or a shipped recipe of that name. Raises RecipeError naming what is shipped."""
    path, shipped = Path(path), shipped_recipes()
    for candidate in (path, shipped / path, shipped / f"{path}.yaml", shipped / Path(*path.parts[1:])):
        if candidate.is_file():
            return candidate
    raise RecipeError(f"{path}: no such recipe (shipped: {', '.join(recipe_names())})")


def shipped_recipes() -> Path:
    """Folder of the recipes that come with the program."""
    return SHIPPED if SHIPPED.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> list[str]:
    """Shipped recipes, as paths below `shipped_recipes()`; parents in _base are not runnable by themselves."""
    shipped = shipped_recipes()
    return [str(p.relative_to(shipped)) for p in sorted(shipped.rglob("*.yaml")) if "_base" not in p.parts]


def _read(path: Path, children: tuple[Path, ...]) -> tuple[dict[str, Any], Lines]:
    """A file merged over its parents, and where each key was written."""
    if path in children:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(map(str, children))}")
    tree, lines = _parse_yaml(path)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree, lines
    target = path.parent / str(parent)
    if not target.is_file():
        raise RecipeError(f"{lines[('extends',)]}: extends: no such file: {target}")
    base, base_lines = _read(target, (*children, path))
    return merge(base, tree), base_lines | lines


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `3e-4` as text; people mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    lines: Lines = {}
    loader = _Loader(path.read_text(encoding="utf-8"))

    def walk(node: yaml.Node, at: tuple) -> Any:
        if isinstance(node, yaml.MappingNode):
            tree: dict[str, Any] = {}
            for key, item in node.value:
                here = f"{path}:{key.start_mark.line + 1}"
                if key.value in tree:
                    raise RecipeError(f"{here}: duplicate key '{key.value}': remove one of the two")
                note(lines, (*at, key.value), item.value, here)
                tree[key.value] = walk(item, (*at, key.value))
            return tree
        if isinstance(node, yaml.SequenceNode):
            return [walk(item, (*at, i)) for i, item in enumerate(node.value)]
        return loader.construct_object(node)

    try:
        node = loader.get_single_node()
        tree = {} if node is None else walk(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise RecipeError(
            f"{path}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', error)}"
        ) from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}:1: a recipe is a mapping of keys, not {type(tree).__name__}")
    return tree, lines


def note(lines: Lines, at: tuple, value: Any, where: str) -> None:
    """Remember where a key was written, with the keys of its block or the one that a bare word is short for."""
    lines[at] = where
    if isinstance(value, str):
        value = {SHORT.get(at, "name"): None}
    if isinstance(value, dict):
        for key, item in value.items():
            note(lines, (*at, key), item, where)


def merge(base: dict[str, Any], over: dict[str, Any], at: tuple[str, ...] = ()) -> dict[str, Any]:
    """Deep merge; a block with another `name` replaces its parent's whole, since its keys belong to another class.

    `at` is the path of keys to both. A bare word in the base is the block that it is short for.
    """
    merged = dict(base)
    for key, item in over.items():
        old = merged.get(key)
        if isinstance(item, dict) and isinstance(old, str):
            old = {SHORT.get((*at, key), "name"): old}
        if isinstance(item, dict) and isinstance(old, dict) and item.get("name", old.get("name")) == old.get("name"):
            merged[key] = merge(old, item, (*at, key))
        else:
            merged[key] = item
    return merged


def apply_override(tree: dict[str, Any], lines: Lines, override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: write key=value, as in --set train.lr=1e-3")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise RecipeError(f"--set {override}: the value is not YAML; quote it") from None
    path = tuple(key.split("."))
    note(lines, path, value, f"--set {override}")
    for part in reversed(path):
        value = {part: value}
    return merge(tree, value)
