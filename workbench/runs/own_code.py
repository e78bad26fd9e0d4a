"""Copies of the user's own classes in a run folder: a run is loaded and resumed with the code that it began with.

The trap: a recipe names a class, not what it does. A loss that was edited between two starts is another loss under the
same name; and a copy alone does not run where it imports from beside it, so what it imports from there is copied, too.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import writing
from workbench.recipe.kept_code import KeptFile, KeptName, compute_digest, find_copy, find_module_copy, read_kept
from workbench.recipe.places import CODE, MODULE, map_texts, name_module_copy
from workbench.recipe.schema import Recipe, parse_recipe

OURS = ("workbench", "kernels", "synthetic")
"""packages of this program, which a file in its repository has beside it"""
INSTALLED = ("site-packages", "dist-packages")
"""folders of packages that were installed, whose versions environment.json has"""
LARGEST = 2**22
"""bytes of a package's file that is copied with its code; a larger one is data"""


@dataclass(frozen=True)
class OwnCode:
    """The file of a class of the user's own."""

    file: Path
    root: Path
    """the folder that its imports are found from: its own, or the one that holds a module's outermost package"""
    name: str
    """as it is told: file.py:Class or module:Class"""

    @property
    def files(self) -> set[Path]:
        """The file, all files of its package where it is in one, and what they import from beside."""
        inside = self.file.relative_to(self.root).parts
        own = {self.file} if len(inside) == 1 else set(_list_package(self.root / inside[0]))
        seen = {inside[0].removesuffix(".py")}
        code = sorted(file for file in own if file.suffix == ".py")
        return own | {each for file in code for each in _find_beside(file, self.root, seen)}


def record_code(run: Path, recipe: Recipe, say: Callable[[str], None], *, began: bool) -> None:
    """Copy the recipe's own files and modules into a run folder, with what they import from beside them and their
    commit; an installed module is not copied, which is said.

    Where the run `began` before, what it has kept stays, and what it lacks is added: files of new evaluators, and those
    whose copies were removed, which is said.
    """
    own, record = dict(_find_own(recipe.as_dict())), run / "code.json"
    for key in [key for key, code in own.items() if set(INSTALLED) & set(code.file.parts)]:
        name = own.pop(key).name
        say(f"{name} is of an installed package: its version is kept, in environment.json, and no copy of its code")
    known = json.loads(record.read_text(encoding="utf-8")) if began and record.exists() else None
    if known and "files" not in known:
        return _say_changes(known, own, say)
    files: dict[str, dict[str, str | None]] = known["files"] if known else {}
    kept = read_kept(run) if began else {}
    new = {key: code for key, code in own.items() if _find_kept(key, kept) is None}
    if not new:
        return None
    with writing(run / "code"):
        if not began:
            shutil.rmtree(run / "code", ignore_errors=True)
        folders: dict[Path, Path] = {}
        for key, code in new.items():
            before, now = files.get(key, {}).get("blake2b"), compute_digest(code.file)
            if before not in (None, now):
                say(f"the code of {code.name} is not the one that the run began with: from here on it is another")
            # two classes of one package have one copy of it: what both import must not be there twice
            if code.root not in folders:
                folders[code.root] = _new_folder(run / "code", code.root.name)
            copy = _copy(code, folders[code.root])
            files[key] = {"copy": str(copy.relative_to(run)), "blake2b": now, "commit": _find_commit(code.file)}
        record.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    return None


def _find_kept(key: str, kept: Mapping[str, KeptFile]) -> Path | None:
    """Find the copy of a file, or of a module by its name."""
    return find_copy(kept, Path(key)) if key.endswith(".py") else find_module_copy(kept, key)


def use_kept_code(run: Path, recipe: Recipe) -> Recipe:
    """Return the recipe with its own classes loaded from the copies that a run has kept, where it has some."""
    if not (kept := read_kept(run)):
        return recipe

    def name_copy(text: str) -> str:
        if not (match := CODE.fullmatch(text)):
            return name_module_copy(text, kept)
        copy = find_copy(kept, Path(match["file"]))
        return KeptName(text, copy) if copy else text

    return parse_recipe({key: map_texts(value, name_copy) for key, value in recipe.as_dict().items()})


def _say_changes(known: dict[str, str], own: Mapping[str, OwnCode], say: Callable[[str], None]) -> None:
    """Say which code differs from what a run of a version before began with, of which it kept digests alone."""
    for code in own.values():
        if known.get(code.name, now := compute_digest(code.file)) != now:
            what = f"the code of {code.name} is not the one that the run began with"
            say(f"{what}: from here on it computes something else")


def _find_own(tree: object) -> Iterator[tuple[str, OwnCode]]:
    """Find (key in code.json, code) of every class of a user's own that a recipe names, of files that are there."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _find_own(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _find_own(value)
    elif isinstance(tree, str) and (match := CODE.fullmatch(tree)) and Path(match["file"]).is_file():
        file = Path(match["file"])
        yield str(file), OwnCode(file, file.parent, f"{file.name}:{match['name']}")
    elif isinstance(tree, str) and (match := MODULE.fullmatch(tree)):
        yield from _find_module(match["module"], match["name"])


def _find_module(module: str, name: str) -> Iterator[tuple[str, OwnCode]]:
    """Find the code of `module:Class`. The recipe was read, so the module of a component has been imported; another
    text of this form names none."""
    loaded = sys.modules.get(module)
    where = getattr(loaded, "__file__", None)
    if not where or not inspect.isclass(getattr(loaded, name, None)) or module.partition(".")[0] in OURS:
        return
    file = Path(where).absolute()  # as it is imported: behind a link it may have another name
    depth = module.count(".") + (file.name == "__init__.py")
    yield module, OwnCode(file, file.parents[depth], f"{module}:{name}")


def _new_folder(code: Path, name: str) -> Path:
    """Name a folder for copies from a folder of this name: what lies in one of two must not hide what lies in the
    other."""
    number = 1
    while (folder := code / f"{name or 'root'}-{number}").exists():
        number += 1
    return folder


def _copy(own: OwnCode, folder: Path) -> Path:
    """Copy the files of a class into a folder; returns the copy of its own file."""
    for each in own.files:
        copy = folder / each.relative_to(own.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(each, copy)
    return folder / own.file.relative_to(own.root)


def _list_package(package: Path) -> list[Path]:
    """List the files of a package, and what its code may read beside them: neither hidden, large, nor of a run."""
    found = []
    for folder, folders, files in os.walk(package):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if name != "__pycache__" and not name.startswith(".") and not (here / name / "recipe.yaml").is_file()
        )
        found += [here / name for name in sorted(files) if not name.startswith(".")]
    return [file for file in found if file.suffix == ".py" or (file.is_file() and file.stat().st_size <= LARGEST)]


def _find_beside(file: Path, folder: Path, seen: set[str]) -> Iterator[Path]:
    """Find the modules, and all files of the packages, in `folder` that a file imports, and what those import."""
    for name in _find_imports(file) - seen - set(OURS):
        seen.add(name)
        module, package = folder / f"{name}.py", folder / name
        found = [module] if module.is_file() else _list_package(package) if package.is_dir() else []
        for each in found:
            yield each
            if each.suffix == ".py":
                yield from _find_beside(each, folder, seen)


def _find_imports(file: Path) -> set[str]:
    """Find the first words of the modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
    plain = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    whence = {node.module.partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return plain | whence


def _find_commit(file: Path) -> str | None:
    """Find the commit of a file's repository, with `+changes` where the file is not as it was committed; None outside
    of a repository, and where there is no git."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=file.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and ask("status", "--porcelain", "--", file.name) else commit
