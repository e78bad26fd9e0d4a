"""Which source of data lies at a path: what a person points to, as the data set that a recipe would name.

The trap: a folder may hold several kinds of files, as tars beside a metadata.jsonl, and several splits: what describes
others comes first, and the training split is taken alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from workbench.errors import RecipeError
from workbench.inspection.cut_captions import read_context
from workbench.inspection.tallies import CONTEXT
from workbench.loading.choosing import PICTURES
from workbench.loading.draws import build_data
from workbench.loading.paths import are_mixed, braces, by_split, describe, expand, walk
from workbench.recipe.component import validate
from workbench.recipe.schema import load_recipe
from workbench.recipe.yaml_file import apply_override, find_recipe

SOURCES = ("shards", "csv", "json", "parquet", "folder", "hf")
SAVED = ("dataset_dict.json", "state.json")
"""one of them is in whatever `save_to_disk` of `datasets` wrote"""
METADATA = ("metadata.jsonl", "metadata.csv")
PACKAGED = "emoji"
EXTENSIONS = {
    ".tar": "shards",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
IN_FOLDERS = (".tar", ".parquet", ".csv", ".tsv", ".jsonl")
"""those that are looked for in a folder, in this order"""


class Found(NamedTuple):
    """A source of data at a path."""

    block: dict[str, Any]
    """{name, path} as in a recipe"""
    note: str = ""
    """what lies there, too, and is not part of it"""
    others: Mapping[str, list[str]] = {}
    """{split: its files or folders} of the other splits there"""


def open_data(path: str, source: str | None, settings: tuple[str, ...]) -> tuple[str, Any]:
    """Build the data of a path or of a recipe, as (its name in a recipe, the data set).

    `settings` are key=value of its block. Raises RecipeError for settings that it does not have, ValueError where
    nothing is there that can be read.
    """
    if source is None and is_recipe(path):
        recipe = load_recipe(path, tuple(f"data.{setting}" for setting in settings))
        return recipe.data.name, build_data(recipe)
    block: dict[str, Any] = {"name": source, "path": path} if source else find(path).block
    for setting in settings:
        block = apply_override(block, {}, setting)
    try:
        return block["name"], validate("data", block).build()
    except ValidationError as error:
        lines = (f"--set {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("\n".join(lines)) from None


def context_of(path: str, source: str | None, settings: tuple[str, ...]) -> int:
    """Tell how many tokens of a caption are read: by the tower of a recipe, or by CLIP's."""
    if source is not None or not is_recipe(path):
        return CONTEXT
    return read_context(load_recipe(path, tuple(f"data.{setting}" for setting in settings))) or CONTEXT


def note_of(path: str, source: str | None) -> str:
    """Say what lies at a path, too, and is not part of the data that `open_data` finds there."""
    return "" if source or is_recipe(path) else find(path).note


def is_recipe(path: str) -> bool:
    """Say whether a path is a file of YAML, or the name of a shipped recipe and of nothing here."""
    if Path(path).suffix in (".yaml", ".yml"):
        return True
    try:
        return not Path(path).exists() and find_recipe(path).is_file()
    except (RecipeError, OSError):
        return False


def find(path: str) -> Found:
    """Tell the source of what lies there: of a folder by its content, of files by their ending. Raises ValueError."""
    found = expand(path)[0]
    folder = Path(found[0]) if found else None
    if folder and folder.is_dir():
        return _in_folder(folder)
    if path == PACKAGED:
        return Found({"name": PACKAGED})
    for name in (*found[:1], *braces(path)[:1]):  # a pattern that matches nothing still says what it meant
        if source := EXTENSIONS.get(Path(name).suffix.lower()):
            return Found({"name": source, "path": path})
    there = "cannot be told from its name" if found else "is not there"
    raise ValueError(
        f"{path} {there}: point to tars, CSV, TSV, JSON or parquet files, a folder or a recipe, or give --source"
    )


def _in_folder(folder: Path) -> Found:
    files = list(walk(folder))
    if any((folder / name).exists() for name in SAVED):
        return Found({"name": "hf", "path": str(folder)})
    if metadata := [file for file in files if file.name in METADATA]:
        return _folders(folder, [file.parent for file in metadata])
    endings = {file.suffix.lower() for file in files}
    for extension in IN_FOLDERS:
        if extension == ".parquet" and (beside := _with_texts(files)):
            return _folders(folder, beside)
        if extension in endings:
            return _files(folder, extension, [file for file in files if file.suffix.lower() == extension])
    if beside := _with_texts(files):
        return _folders(folder, beside)
    raise ValueError(_nothing_in(folder, files))


def _files(folder: Path, extension: str, files: list[Path]) -> Found:
    """Name all files of a kind; where they are of several splits, those of training."""
    groups = by_split(files)
    patterns = sorted({f"{escape(str(file.parent))}/*{file.suffix}" for file in files})  # .TAR is no .tar to a glob
    if not are_mixed(groups):
        return Found({"name": EXTENSIONS[extension], "path": patterns})
    name = next(split for split in ("train", "", "validation", "test") if split in groups)
    return Found(
        {"name": EXTENSIONS[extension], "path": groups[name]}, _beside(folder, name, groups), _others(name, groups)
    )


def _folders(folder: Path, parents: list[Path]) -> Found:
    """Name a folder of pictures; where those below it are splits, that of training."""
    groups = by_split([parent / "x" for parent in sorted({*parents})])
    if not are_mixed(groups):
        return Found({"name": "folder", "path": str(folder)})
    name = next(split for split in ("train", "", "validation", "test") if split in groups)
    folders = {split: [str(Path(file).parent) for file in found] for split, found in groups.items()}
    return Found({"name": "folder", "path": folders[name]}, _beside(folder, name, folders), _others(name, folders))


def _others(chosen: str, groups: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {split: files for split, files in groups.items() if split not in ("", chosen)}


def _beside(folder: Path, chosen: str, groups: dict[str, list[str]]) -> str:
    others = "; ".join(f"{split or 'other'}: {files[0]}" for split, files in groups.items() if split != chosen)
    return f"{folder} holds several splits: this is {chosen or 'what names none'}, and not part of it are {others}"


def _with_texts(files: list[Path]) -> list[Path]:
    """List the folders in which a picture has a .txt beside it."""
    texts = {file.with_suffix("") for file in files if file.suffix.lower() == ".txt"}
    return [f.parent for f in files if f.suffix[1:].lower() in PICTURES and f.with_suffix("") in texts]


def _nothing_in(folder: Path, files: list[Path]) -> str:
    """Say what to do with a folder of which no source can make pairs."""
    said = f"{folder} has no {METADATA[0]} and no {', '.join(IN_FOLDERS)} file, nor was it saved by `datasets`"
    if lists := [str(file) for file in files if file.suffix.lower() == ".json" and _is_list(file)]:
        return f"{said}; it has {describe(tuple(lists[:3]))}: point to one, and set root to the folder of the pictures"
    pictures = [file for file in files if file.suffix[1:].lower() in PICTURES]
    classes = sorted({file.parent.name for file in pictures if file.parent != folder})
    if len(classes) > 1:
        names = ", ".join(classes[:3])
        said += f"; its pictures lie in {len(classes)} folders ({names}, ...): to take the names of these as captions, "
        return f"{said}use --source hf --set fields.text.from=label"
    if sidecar := next((file for file in pictures if file.with_name(f"{file.name}.txt").is_file()), None):
        said += f"; {sidecar.name}.txt is named after {sidecar.name}"
        return f"{said}: use --source folder --set fields.text.from={sidecar.suffix}.txt"
    if pictures:
        return f"{said}; it has pictures, as {pictures[0]}: write a .txt with its captions beside each"
    return said


def _is_list(file: Path) -> bool:
    """Say whether a JSON file may name pictures: not what a tool has counted."""
    try:
        with file.open("rb") as source:
            start = source.read(2**16)
        return any(word in start for word in (b"image", b"file", b"caption", b"sentences"))
    except OSError:
        return False
