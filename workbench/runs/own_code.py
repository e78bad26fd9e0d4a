"""Copies of the user's own classes in a run folder: a run is loaded and resumed with the code that it began with.

The trap: a recipe names a class, not what it does. A loss that was edited between two starts is another loss under the
same name; and a copy alone does not run where it imports from beside it, so what it imports from there is copied, too.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench.errors import writing
from workbench.recipe.kept_code import KeptName, compute_digest, find_copy, read_kept
from workbench.recipe.places import CODE, map_texts
from workbench.recipe.schema import Recipe, parse_recipe

OURS = ("workbench", "kernels", "synthetic")
"""packages of this program, which a file in its repository has beside it"""


def record_code(run: Path, recipe: Recipe, say: Callable[[str], None], *, began: bool) -> None:
    """Copy the recipe's own files into a run folder, with what they import from beside them and their commit.

    Where the run `began` before, what it has kept stays, and what it lacks is added: files of new evaluators, and those
    whose copies were removed, which is said.
    """
    own, record = dict(_find_own(recipe.as_dict())), run / "code.json"
    known = json.loads(record.read_text(encoding="utf-8")) if began and record.exists() else None
    if known and "files" not in known:
        return _say_changes(known, own, say)
    files: dict[str, dict[str, str | None]] = known["files"] if known else {}
    kept = read_kept(run) if began else {}
    new = [file for file in own if find_copy(kept, file) is None]
    if not new:
        return None
    with writing(run / "code"):
        if not began:
            shutil.rmtree(run / "code", ignore_errors=True)
        for file in new:
            before, now = files.get(str(file), {}).get("blake2b"), compute_digest(file)
            if before not in (None, now):
                say(f"the code of {own[file]} is not the one that the run began with: from here on it is another")
            copy = _copy(file, run / "code")
            files[str(file)] = {"copy": str(copy.relative_to(run)), "blake2b": now, "commit": _find_commit(file)}
        record.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    return None


def use_kept_code(run: Path, recipe: Recipe) -> Recipe:
    """Return the recipe with its own classes loaded from the copies that a run has kept, where it has some."""
    if not (kept := read_kept(run)):
        return recipe

    def name_copy(text: str) -> str:
        match = CODE.fullmatch(text)
        copy = find_copy(kept, Path(match["file"])) if match else None
        return KeptName(text, copy) if copy else text

    return parse_recipe({key: map_texts(value, name_copy) for key, value in recipe.as_dict().items()})


def _say_changes(known: dict[str, str], own: dict[Path, str], say: Callable[[str], None]) -> None:
    """Say which code differs from what a run of a version before began with, of which it kept digests alone."""
    for file, name in own.items():
        if known.get(name, now := compute_digest(file)) != now:
            say(f"the code of {name} is not the one that the run began with: from here on it computes something else")


def _find_own(tree: object) -> Iterator[tuple[Path, str]]:
    """Find (file, `file.py:Class`) of every class of a user's own that a recipe names, of files that are there."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _find_own(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _find_own(value)
    elif isinstance(tree, str) and (match := CODE.fullmatch(tree)) and Path(match["file"]).is_file():
        yield Path(match["file"]), f"{Path(match['file']).name}:{match['name']}"


def _copy(file: Path, code: Path) -> Path:
    """Copy a file and what it imports from beside it into a folder below `code`; returns the copy of the file."""
    # two files may have one name in two folders, and what lies beside one must not hide what lies beside the other
    number = 1
    while (folder := code / f"{file.parent.name or 'root'}-{number}").exists():
        number += 1
    for each in {file, *_find_beside(file, file.parent, set())}:
        copy = folder / each.relative_to(file.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(each, copy)
    return folder / file.name


def _find_beside(file: Path, folder: Path, seen: set[str]) -> Iterator[Path]:
    """Find the modules, and all files of the packages, in `folder` that a file imports, and what those import."""
    for name in _find_imports(file) - seen - set(OURS):
        seen.add(name)
        module, package = folder / f"{name}.py", folder / name
        found = [module] if module.is_file() else sorted(package.rglob("*.py")) if package.is_dir() else []
        for each in found:
            yield each
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
