"""Where the files are that a recipe names: in the recipe's folder, else in the current one.

This is so for data, for weights to start from and for code of the user's own; what `--set` names is in the current
folder. The recipe of a run is for the folder that its training was started in, wherever the run is now, and code that
the run has kept a copy of is loaded from the copy.

The trap: a path in a shipped recipe, as data/cc12m/*.tar, is for the current folder, and nothing in the file says so;
so a path is changed only where it leads to something in the recipe's folder, and is left as it is written otherwise.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from workbench.recipe.kept_code import KeptFile, KeptName, find_copy, find_module_copy, read_kept

CODE = re.compile(r"(?P<file>[^:\n]+\.py):(?P<name>\w+)")
"""a class in a file of the user's own"""
MODULE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>\w+)")
"""what may be a class in a module that can be imported; `split.json:test` has the same form"""
PATHS = (
    ("data", "path"),
    ("data", "validation"),
    ("data", "splits"),
    ("data", "root"),
    ("model", "init", "from"),
    ("model", "encoders", "*", "model"),
    ("model", "encoders", "*", "pretrained"),
)
"""keys below which every text may be the path of a file; * stands for any key"""
ROWS = (("data", "validation"), ("data", "splits"))
"""keys that are no paths in data of Hugging Face's `datasets`, but names of splits"""
LISTED = re.compile(r"(?P<file>.+\.json):\w+")
"""a list of names in a file, as split.json:test"""


def find_files(tree: Mapping[str, object], recipe: Path, source: object) -> dict[str, object]:
    """Write the whole path of each file that is found from the recipe's folder, where that is not the current one.

    Args:
        tree: what the recipe's file says, without its parents.
        recipe: that file.
        source: the name of the recipe's data set.
    """
    folder = _folder_of(recipe)
    if folder == Path.cwd():
        return dict(tree)
    for keys in PATHS:
        if source != "hf" or keys not in ROWS:
            tree = {
                key: _change_below(keys[1:], item, folder) if key == keys[0] else item for key, item in tree.items()
            }
    return dict(tree)


def _folder_of(recipe: Path) -> Path:
    """Find the folder that a recipe's paths are relative to: its own; of a run's recipe the one of its training."""
    if is_of_a_run(recipe):
        try:
            return Path(json.loads((recipe.parent / "environment.json").read_text(encoding="utf-8"))["folder"])
        except (OSError, ValueError, KeyError):  # a run of a version before 0.2
            return Path.cwd()
    return recipe.parent.resolve()


def is_of_a_run(path: Path) -> bool:
    """Tell the resolved recipe in a run folder from one that a person has written."""
    return path.name == "recipe.yaml" and (path.parent / "environment.json").is_file()


def _change_below(keys: tuple[str, ...], tree: object, folder: Path) -> object:
    """Find the files of every text below a path of keys."""
    if not keys or (isinstance(tree, str) and keys == ("from",)):  # `init: PATH` is short for `init: {from: PATH}`
        return map_texts(tree, lambda text: _find_file(text, folder))
    if not isinstance(tree, dict):
        return tree
    return {k: _change_below(keys[1:], item, folder) if keys[0] in (k, "*") else item for k, item in tree.items()}


def _find_file(text: str, folder: Path) -> str:
    """Write the whole path of a file, or a pattern of files, that is in `folder`; warns where the current folder has
    another one of this name."""
    listed = LISTED.fullmatch(text)
    file = listed["file"] if listed else text
    if not file.strip() or "://" in file or Path(file).is_absolute() or not _is_there(folder, file):
        return text
    if _is_there(Path.cwd(), file) and (folder / file).resolve() != Path(file).resolve():
        warnings.warn(
            f"'{file}' is in {folder}, the recipe's folder, and in the current one: the first is taken", stacklevel=1
        )
    return os.path.normpath(folder / text)


def _is_there(folder: Path, pattern: str) -> bool:
    """Tell whether a folder has a file of this name, or any that fits the pattern, with globs and braces."""
    try:
        if (folder / pattern).exists():
            return True
        pattern = re.sub(r"\{\d+\.\.\d+\}", "[0-9]*", pattern)  # a range of numbers
        while (wider := re.sub(r"\{[^{}]*\}", "*", pattern)) != pattern:
            pattern = wider
        return "*" in pattern and any(folder.glob(pattern))
    except (OSError, ValueError, NotImplementedError):  # no name that a file could have
        return False


def find_code(tree: Mapping[str, object], recipe: Path) -> dict[str, object]:
    """Write the whole path of each `file.py:Class` that is found from the recipe's folder, else from the current one.

    What a run has kept a copy of keeps its name, and is loaded from the copy.
    """
    kept, folder = read_kept(recipe.parent) if is_of_a_run(recipe) else {}, recipe.parent.resolve()

    def find(text: str) -> str:
        if not (match := CODE.fullmatch(text)):
            return name_module_copy(text, kept)
        named = Path(match["file"])
        if copy := find_copy(kept, named):
            return KeptName(text, copy)
        beside = None if named.is_absolute() or not is_file(folder / named) else (folder / named).resolve()
        if beside is None and not is_file(named):
            beside = _search(named, folder)
        return f"{beside}:{match['name']}" if beside else text

    return {key: map_texts(value, find) for key, value in tree.items()}


def name_module_copy(text: str, kept: Mapping[str, KeptFile]) -> str:
    """Return `module:Class` with the copy of the module that a run has kept, any other text as it is."""
    match = MODULE.fullmatch(text)
    copy = find_module_copy(kept, match["module"]) if match else None
    return KeptName(text, copy) if copy else text


def _search(named: Path, folder: Path) -> Path | None:
    """Find the code of a whole path where a run and its code have moved together, at the same place below a folder that
    holds both: what ends like the path in the recipe, as far as possible."""
    if not named.is_absolute():
        return None
    for length in range(len(named.parts) - 1, 0, -1):
        for above in (folder, *folder.parents[:-1]):
            moved = above.joinpath(*named.parts[-length:])
            if is_file(moved):
                warnings.warn(f"{named} is not there any more, {moved} is taken", stacklevel=2)
                return moved
    return None


def map_texts(value: object, change: Callable[[str], str]) -> object:
    """Return a tree with each text in its blocks and lists changed."""
    if isinstance(value, dict):
        return {key: map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [map_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def is_file(path: Path) -> bool:
    """Tell whether a file is there; False also for what cannot be a name, and for what may not be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False
