"""Lists of the samples that a split has of a folder: a text file with a name a line, or a list in a JSON file.

    names: split.json:train            # {"train": ["0000005", ...], "dev": [...]}, as MM-IMDb has it
    names: ImageSets/Main/train.txt    # a name a line, as Pascal VOC has it

The trap: a name that the folder does not have is a sample that is missing, and is counted as one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workbench.errors import did_you_mean, shorten
from workbench.loading.captions import load_json, parse_lines
from workbench.loading.cells import lookup
from workbench.loading.grouping import split_name
from workbench.loading.paths import read_bytes
from workbench.loading.samples_in_files import FileSamples
from workbench.loading.table import Part
from workbench.types import Skipped

_IN_JSON = re.compile(r"(.+\.json):(.+)", re.IGNORECASE)


def file_of(names: str) -> Path:
    """Tell the file of a list from the key in it."""
    found = _IN_JSON.fullmatch(names)
    return Path(found[1] if found else names).expanduser()


def read_name_list(names: str) -> list[str]:
    """Read a list of names, each once, in its order. Raises OSError and ValueError."""
    content = read_bytes(file_of(names))
    found = _IN_JSON.fullmatch(names)
    if not found:
        listed = [line.strip() for line in parse_lines(content)]
        return [name for name in dict.fromkeys(listed) if name]
    try:
        tree = load_json(content)
    except ValueError as error:
        raise ValueError(f"{found[1]} is no JSON that can be read: {error}") from None
    listed = lookup(tree, found[2]) if isinstance(tree, dict) else None
    if not isinstance(listed, list) or not all(isinstance(name, str | int) for name in listed):
        keys = list(map(str, tree)) if isinstance(tree, dict) else []
        raise ValueError(f"{found[1]} has no list of names under '{found[2]}'{did_you_mean(found[2], keys)}")
    return list(dict.fromkeys(map(str, listed)))


def choose_named(table: FileSamples, names: str) -> Part:
    """Keep the samples of a folder that a list names: by their stem from the folder on, or by a file's whole name.

    What it names and the folder lacks is left out, with a reason; samples that it does not name are counted beside.
    Raises OSError and ValueError, also where the folder has none of them.
    """
    listed = read_name_list(names)
    wanted, found = set(listed), set[str]()
    rows = []
    for row in range(len(table)):
        mine = wanted.intersection(_spellings(table.name(row), table.folder))
        found |= mine
        rows += [row] if mine else []
    if not rows:
        some = shorten(", ".join(listed[:3]) or "nothing", 80)
        raise ValueError(f"{table.folder} has no sample that {names} names (it names {some})")
    bad = [(each, wanted.intersection(_spellings(each.name, table.folder))) for each in table.left_out]
    left_out = [each for each, mine in bad if mine]
    found |= {name for _, mine in bad for name in mine}
    left_out += [
        Skipped(f"{names}: {name}", f"{table.folder} has no such file") for name in listed if name not in found
    ]
    table.beside[f"samples that {names} does not name"] += len(table) - len(rows)
    return Part(table, np.array(rows), left_out)


def _spellings(path: str, folder: Path) -> Iterator[str]:
    """Write the name of a file as lists do: from the folder on or without folders, whole or without its ending."""
    name = os.path.relpath(path, folder).replace(os.sep, "/")
    for each in (name, name.rpartition("/")[2]):
        yield each
        yield each.rpartition(".")[0]
        yield split_name(each)[0]
