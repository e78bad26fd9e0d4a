"""Recipe files: `extends`, `--set` and where each key was written, into one plain tree.

The trap: an error in a block that a parent wrote must point into the parent's file, and `--set` has no line at all; so
each key remembers where it was written last, and a bare word remembers it for the key that it is short for.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path

from workbench.errors import RecipeError, did_you_mean
from workbench.recipe.places import find_code, find_files, is_file
from workbench.recipe.yaml_text import Lines, parse_yaml
from workbench.recipe.yaml_text import Path as Keys

SHIPPED = Path(__file__).parents[1] / "_recipes"
"""recipes inside the wheel; a source checkout keeps them in recipes/ beside the package"""
SHORT: dict[Keys, str] = {("model", "init"): "from"}
"""what a bare word stands for in the place of a block: here, and elsewhere the block's `name`"""
DROPPED_BY_NULL = (("eval",), ("callbacks",))
"""blocks whose keys name components of one's choice: a null drops one, and nothing behind the key is its defaults"""
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""{first bytes of a file: its encoding}; without such a mark it is UTF-8"""
ASIDE = "x-"
"""how a key of the file itself begins that is not read: a place for anchors that blocks merge, as `<<: *towers`"""
NO_RECIPES = ("_base", "sweeps", "claims")
"""folders of shipped files that are parents of recipes, or made of them"""
LARGEST = 2**18
"""bytes of a recipe file"""

Tree = dict[str, object]
"""a recipe as YAML has it: dicts, lists, texts, numbers, booleans, None"""


def read_tree(path: str | Path, overrides: tuple[str, ...] = ()) -> tuple[Tree, Lines]:
    """Read a recipe with its parents, then apply `key=value` overrides. Raises RecipeError."""
    tree, lines = _read(find_recipe(path), ())
    for override in overrides:
        tree = apply_override(tree, lines, override)
    return tree, lines


def find_recipe(path: str | Path) -> Path:
    """Return the file itself, or the shipped recipe of that name. Raises RecipeError naming what is shipped."""
    path = Path(path)
    for candidate in (path, *_shipped_of_name(path)):
        if is_file(candidate):
            return candidate
    raise RecipeError(f"{path}: no such recipe{did_you_mean(str(path), recipe_names())}")


def find_sweep_or_claim(path: str | Path, folder: str) -> Path:
    """Return the file itself, or the shipped one of that name in `folder`. Raises RecipeError naming what is there."""
    path = Path(path)
    for candidate in (path, *_shipped_of_name(path), *_shipped_of_name(Path(folder) / path)):
        if is_file(candidate):
            return candidate
    known = sorted(file.stem for file in (shipped_recipes() / folder).glob("*.yaml"))
    raise RecipeError(f"{path}: no such file, and no shipped one in {folder}{did_you_mean(path.stem, known)}")


def shipped_recipes() -> Path:
    """Return the folder of the recipes that come with the program."""
    return SHIPPED if SHIPPED.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> list[str]:
    """List shipped recipes as paths below `shipped_recipes()`: what can be trained by itself."""
    shipped = shipped_recipes()
    found = (path.relative_to(shipped) for path in sorted(shipped.rglob("*.yaml")))
    return [str(path) for path in found if path.parts[0] not in NO_RECIPES]


def _shipped_of_name(path: Path) -> tuple[Path, ...]:
    """List where a shipped recipe may lie: `emoji_ito`, `emoji_ito.yaml` and `recipes/emoji_ito.yaml` work."""
    shipped = shipped_recipes()
    return shipped / path, shipped / f"{path}.yaml", shipped / Path(*path.parts[1:])


def _read(path: Path, children: tuple[Path, ...]) -> tuple[Tree, Lines]:
    """Read a file and merge it over its parents; also return where each key was written."""
    tree, lines = _parse_file(path)
    base: Tree = {}
    if "extends" in tree:
        parent, where = tree.pop("extends"), lines[("extends",)]
        if not isinstance(parent, str) or not parent.strip():
            raise RecipeError(f"{where}: extends: write the path of one recipe, or the name of a shipped one")
        base, base_lines = _read(_find_parent(parent, (*children, path), where), (*children, path))
        lines = base_lines | lines
    source = merge(block(base, "data"), block(tree, "data")).get("name")
    return merge(base, find_files(tree, path, source)), lines


def find_named(name: str, beside: Path) -> list[Path]:
    """List the files that a recipe's name stands for in a file: one beside it, an absolute path, a shipped recipe."""
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    return [p for p in (beside.parent / path, *_shipped_of_name(path)) if is_file(p)]


def _find_parent(name: str, children: tuple[Path, ...], where: str) -> Path:
    """Find the recipe that the last of `children` extends: a file beside it, an absolute path, or a shipped recipe.

    A file may extend the shipped recipe of its own name, so files that are being read already are passed over.
    """
    own, found = {child.resolve() for child in children}, find_named(name, children[-1])
    new = [p for p in found if p.resolve() not in own]
    if new:
        return new[0]
    if found:
        raise RecipeError(f"{where}: extends itself through {' -> '.join(map(str, (*children, found[0])))}")
    raise RecipeError(
        f"{where}: extends: no such file: {children[-1].parent / name}, and no shipped recipe of that name"
        + did_you_mean(name, recipe_names())
    )


def _parse_file(path: Path) -> tuple[Tree, Lines]:
    """Read a file's own keys, without its parents'. Raises RecipeError with file and line."""
    tree, lines, blank = read_mapping(path, "recipe")
    for at in blank:
        if fill_blank(at, None) is not None:  # an explicit null drops an inherited one
            section = str(at[0])
            tree[section] = block(tree, section) | {str(at[1]): {}}
    return tree, lines | _lines_of_words(tree, lines, ())


def read_mapping(path: Path, what: str) -> tuple[Tree, Lines, set[Keys]]:
    """Read a file of keys; returns them, where each was written, and which have no value written behind them.

    Raises RecipeError with file and line; `what` is the word for such a file, as `recipe`.
    """
    parsed = parse_yaml(_read_text(path), lambda line: f"{path}:{line}")
    tree = {} if parsed.value is None else parsed.value
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}:1: a {what} is a mapping of keys, not a {_kind(tree)}: begin with `name: NAME`")
    tree = find_code({key: item for key, item in tree.items() if not key.startswith(ASIDE)}, path)
    return tree, {(): str(path)} | parsed.lines, parsed.blank


def _lines_of_words(value: object, lines: Lines, at: Keys) -> Lines:
    """Find the lines of keys that bare words are short for: `objective: ito` says objective.name."""
    found: Lines = {}
    if isinstance(value, str) and at in lines:
        found[(*at, SHORT.get(at, "name"))] = lines[at]
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        found |= _lines_of_words(item, lines, (*at, key))
    return found


def _read_text(path: Path) -> str:
    """Read a file as text. Raises RecipeError where it cannot be read, is no text, or is far too large for a recipe."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise RecipeError(f"{path}: more than {LARGEST:,} bytes: this is another file, a recipe has a few lines")
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: not {encoding.upper()} (byte 0x{content[error.start]:02x}): save the file as UTF-8"
        ) from None


def _kind(value: object) -> str:
    return {list: "list", str: "text"}.get(type(value), "number")


def remember_lines(lines: Lines, at: Keys, value: object, where: str) -> None:
    """Remember where a key was written, with the keys of its block or the one that a bare word is short for."""
    lines[at] = where
    if isinstance(value, str):
        value = {SHORT.get(at, "name"): None}
    if isinstance(value, dict):
        for key, item in value.items():
            remember_lines(lines, (*at, key), item, where)


def merge(base: Mapping[str, object], over: Mapping[str, object], at: tuple[str, ...] = ()) -> Tree:
    """Merge `over` into `base`, block by block; a block with another `name` replaces its parent's whole, since its keys
    belong to another class. A null drops an evaluator or a callback of the base.

    `at` is the path of keys to both. A bare word in the base is the block that it is short for.
    """
    merged = dict(base)
    for key, item in over.items():
        old = merged.get(key)
        if isinstance(item, dict) and isinstance(old, str):
            old = {SHORT.get((*at, key), "name"): old}
        if isinstance(item, dict) and isinstance(old, dict) and item.get("name", old.get("name")) == old.get("name"):
            merged[key] = merge(old, item, (*at, key))
        elif item is None and at in DROPPED_BY_NULL and key in merged:
            del merged[key]
        else:
            merged[key] = item
    return merged


def block(tree: Mapping[str, object], *keys: str) -> Tree:
    """Return the block below these keys; an empty one where there is none."""
    for key in keys:
        inner = tree.get(key)
        tree = inner if isinstance(inner, dict) else {}
    return dict(tree)


def apply_override(tree: Mapping[str, object], lines: Lines, override: str) -> Tree:
    """Merge one `key=value` of the command line into a tree. Raises RecipeError."""
    path, value = read_override(override)
    remember_lines(lines, path, value, f"--set {override}")
    return set_key(tree, path, value)


def read_override(override: str) -> tuple[tuple[str, ...], object]:
    """Read `key=value` of the command line: the keys that lead there, and the value. Raises RecipeError."""
    key, equals, text = override.partition("=")
    path = split_key(key)
    if not equals or not all(path):
        raise RecipeError(f"--set {override}: write key=value, as in --set train.lr=1e-3")
    value = _read_value(text, f"--set {override}")
    return path, value if text.strip() else fill_blank(path, value)


def split_key(key: str) -> tuple[str, ...]:
    """Split a dotted key into the keys of its blocks."""
    return tuple(part.strip() for part in key.split("."))


def fill_blank(path: Keys, value: object) -> object:
    """Return what a key with nothing written behind it stands for: below `eval` and `callbacks`, a component with its
    defaults."""
    return {} if len(path) == 2 and path[:1] in DROPPED_BY_NULL else value


def set_key(tree: Mapping[str, object], path: tuple[str, ...], value: object) -> Tree:
    """Merge a value into a tree at a path of keys."""
    for part in reversed(path[1:]):
        value = {part: value}
    return merge(tree, {path[0]: value})


def _read_value(text: str, where: str) -> object:
    """Read the value behind `=`: YAML, or the text as it stands where it cannot be meant as YAML.

    A shell user writes *.tar, {0..3}.tar, | and #; a block or a list with a mistake in it stays a mistake.
    """
    bare = text.strip()
    sign = len(bare) == 1 and not bare.isalnum() and bare != "~"
    braces = bare.startswith("{") and ":" not in bare and bare != "{}"
    comment = bare.startswith("#") or (" #" in bare and bare[0] not in "\"'[{")
    if sign or braces or comment or (text and not bare) or bare.startswith("&"):
        return bare or text
    try:
        return parse_yaml(text, lambda _: where).value
    except RecipeError:
        unfinished = any(bare.count(a) != bare.count(b) for a, b in ("[]", "{}"))
        if bare[0] in "\"'" or (bare[0] in "[{" and (unfinished or bare[-1] in "]}" or ": " in bare)):
            raise
        return bare
