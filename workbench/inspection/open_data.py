"""Which source of data lies at a path: what a person points to, as the data set that a recipe would name.

The trap: a folder may hold several kinds of files, as tars beside a metadata.jsonl: what describes others comes first.
"""

from __future__ import annotations

from glob import escape
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.errors import RecipeError
from workbench.loading.paths import braces, expand
from workbench.recipe.component import validate
from workbench.recipe.schema import load_recipe
from workbench.recipe.yaml_file import apply_override, find_recipe

SOURCES = ("shards", "csv", "parquet", "folder", "hf")
SAVED = ("dataset_dict.json", "state.json")
"""one of them is in whatever `save_to_disk` of `datasets` wrote"""
METADATA = "metadata.jsonl"
PACKAGED = "emoji"
EXTENSIONS = {".tar": "shards", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}


def open_data(path: str, source: str | None, settings: tuple[str, ...]) -> tuple[str, Any]:
    """(its name in a recipe, the data set), of a path or of a recipe. `settings` are key=value of its block.

    Raises RecipeError for settings that it does not have, ValueError where nothing is there that can be read.
    """
    if source is None and is_recipe(path):
        spec = load_recipe(path, tuple(f"data.{setting}" for setting in settings)).data
        return spec.name, spec.build()
    block: dict[str, Any] = {"name": source, "path": path} if source else find(path)
    for setting in settings:
        block = apply_override(block, {}, setting)
    try:
        return block["name"], validate("data", block).build()
    except ValidationError as error:
        lines = (f"--set {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("\n".join(lines)) from None


def is_recipe(path: str) -> bool:
    """A file of YAML, or the name of a shipped recipe that is no path here."""
    if Path(path).suffix in (".yaml", ".yml"):
        return True
    try:
        return not Path(path).exists() and find_recipe(path).is_file()
    except RecipeError:
        return False


def find(path: str) -> dict[str, Any]:
    """The block {name, path} of what lies there: a folder by its content, files by their ending. Raises ValueError."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _in_folder(folder)
    if path == PACKAGED:
        return {"name": PACKAGED}
    for name in (*expand(path)[0][:1], *braces(path)[:1]):  # a pattern that matches nothing still says what it meant
        if source := EXTENSIONS.get(Path(name).suffix):
            return {"name": source, "path": path}
    there = "cannot be told from its name" if expand(path)[0] else "is not there"
    raise ValueError(
        f"{path} {there}: point to tars, CSV, TSV or parquet files, a folder or a recipe, or give --source"
    )


def _in_folder(folder: Path) -> dict[str, Any]:
    if any((folder / name).exists() for name in SAVED):
        return {"name": "hf", "path": str(folder)}
    if next(folder.rglob(METADATA), None):
        return {"name": "folder", "path": str(folder)}
    for extension, source in EXTENSIONS.items():
        if folders := {file.parent for file in folder.rglob(f"*{extension}")}:
            return {"name": source, "path": [f"{escape(str(parent))}/*{extension}" for parent in sorted(folders)]}
    raise ValueError(f"{folder} has no {METADATA} and no {', '.join(EXTENSIONS)} file, nor was it saved by `datasets`")
