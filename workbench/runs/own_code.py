"""Files of one's own classes that a run is of: said when a resume goes on with other code than the run began with.

The trap: a recipe names a class, not what it does. A loss that was edited between two starts is another loss, under the
same name; what such a file imports from beside it is not looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench.errors import writing
from workbench.recipe.schema import Recipe


def record_code(file: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Keep the digests of the recipe's own code in a file, or say which differs from those that are kept there."""
    found = {
        f"{path.name}:{name}": hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path, name in _find_own(recipe.as_dict())
    }
    kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    for name in found:
        if kept.get(name, found[name]) != found[name]:
            say(f"the code of {name} is not the one that the run began with: from here on it computes something else")
    if found and not kept:
        with writing(file):
            file.write_text(json.dumps(found, indent=1))


def _find_own(tree: object) -> Iterator[tuple[Path, str]]:
    """Find every `file.py:Class` of a recipe."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _find_own(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _find_own(value)
    elif isinstance(tree, str):
        path, _, name = tree.rpartition(":")
        if path.endswith(".py") and Path(path).is_file():
            yield Path(path), name
