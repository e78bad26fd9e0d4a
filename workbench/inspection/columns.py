"""What the columns of a stranger's data hold, told by their first cells: pictures, texts, sounds, numbers, classes.

The trap: what a column is cannot be told for certain. The guess is written into a recipe with a comment, where a person
sees it and mends it; nothing else relies on it.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from workbench.errors import shorten
from workbench.loading.captions import unlist
from workbench.loading.cells import is_empty
from workbench.loading.choosing import PICTURES, is_picture
from workbench.loading.grouping import ENDING, split_name
from workbench.loading.json_lists import Row, read_rows
from workbench.loading.numbers import parse_npy, parse_text
from workbench.loading.paths import SPLITS, expand, walk
from workbench.loading.samples_in_arrow import load
from workbench.loading.samples_in_lists import CAPTIONS, IMAGES, split_column
from workbench.loading.separated import Dialect, Paths, read_columns, tell_dialect
from workbench.loading.sounds import ENDINGS as SOUNDS
from workbench.loading.tar_index import index

ROWS = 1000
"""first rows that are looked at"""
FEW = 50
"""classes that a label has, at most, for a column of words to be one"""
LABELS = re.compile(r"label|class|categor|genre|species|topic|tag|type|sex|gender|country|language|lang")
SEPARATORS = "\t,;|"
Role = Literal["image", "text", "audio", "vector", "sequence", "class", "classes", "number", "split", "id", "empty"]


class Column(NamedTuple):
    """A column, and what it seems to hold."""

    key: str
    role: Role
    distinct: int
    """different cells among the first rows"""
    filled: int
    """cells that are not empty, among them"""


def tell_columns(block: Mapping[str, Any]) -> list[Column] | None:
    """Tell what the columns of a source hold, in their order; None where it has no table of columns.

    Raises ValueError where it cannot be read.
    """
    rows = _of_datasets(block)[0] if block["name"] == "hf" else _first_rows(block)
    if rows is None:
        return None
    keys = dict.fromkeys(key for row in rows for key in row)
    split, root = split_column(list(keys)), Path((expand(block["path"])[0] or ["."])[0])
    root = root if root.is_dir() else root.parent
    found: list[Column] = []
    for key in keys:
        cells = [row[key] for row in rows if key in row and not is_empty(row[key])]
        distinct = len({str(cell)[:200] for cell in cells})
        role = "split" if key == split and distinct > 1 else _role_of(key, cells, distinct, root)
        found.append(Column(key, role, distinct, len(cells)))
    return found


def _first_rows(block: Mapping[str, Any]) -> list[Mapping[str, object]] | None:
    """Read the first rows of a source that has a table of columns."""
    files = expand(block["path"])[0]
    if not files:
        raise ValueError(f"{block['path']} is not there")
    if block["name"] == "csv":
        return _of_csv(files[0])
    if block["name"] == "json":
        return _of_json(files[0])
    if block["name"] == "parquet":
        with _named(files[0]), pq.ParquetFile(files[0]) as file:
            return next(file.iter_batches(ROWS)).to_pylist() if file.metadata.num_rows else []
    if block["name"] == "folder":
        lists = [file for file in walk(Path(files[0])) if file.name in ("metadata.jsonl", "metadata.csv")]
        return None if not lists else _of_json(str(lists[0])) if lists[0].suffix == ".jsonl" else _of_csv(str(lists[0]))
    return None


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Turn what the parquet library says of a damaged file into a ValueError that names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{file} is no readable parquet file: {shorten(str(error))}; remove it or fetch it again"
        ) from None


def _of_csv(file: str) -> list[Mapping[str, object]]:
    """Read rows of texts; the separator is the one that makes the most columns."""
    dialect = _dialect(file)
    if len(set(dialect.header)) < len(dialect.header):
        raise ValueError(f"{file} has a column twice: {', '.join(dialect.header)}")
    columns = read_columns(file, dialect.header, Paths([]), dialect, auto=True).columns
    cells = {name: column.slice(0, ROWS).to_pylist() for name, column in columns.items()}
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def _dialect(file: str) -> Dialect:
    return max((tell_dialect(file, [], sep, "auto") for sep in SEPARATORS), key=lambda each: len(each.header))


def _of_json(file: str) -> list[Mapping[str, object]]:
    return [row.fields for row in islice((row for row in read_rows(file) if isinstance(row, Row)), ROWS)]


def _of_datasets(block: Mapping[str, Any]) -> tuple[list[Mapping[str, object]], list[str]]:
    """Read the first rows of a data set of `datasets`, files as bytes and classes by their names; and its splits."""
    import datasets

    folder = Path(block["path"]).expanduser()
    saved = any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))
    found: Any = datasets.load_from_disk(str(folder)) if saved else load(str(block["path"]))
    splits = [str(name) for name in found] if isinstance(found, datasets.DatasetDict) else []
    rows: Any = found["train" if "train" in found else splits[0]] if splits else found
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            rows = rows.cast_column(name, type(feature)(decode=False))
    first: dict[str, list[Any]] = rows[:ROWS]
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.ClassLabel):
            first[name] = [None if cell is None or cell < 0 else feature.int2str(cell) for cell in first[name]]
    return [dict(zip(first, row, strict=True)) for row in zip(*first.values(), strict=True)], splits


def tell_splits(block: Mapping[str, Any], key: str | None) -> dict[str, str]:
    """Find {train, validation or test: what the source calls it}, in the column `key` of its rows, or of `datasets`."""
    if block["name"] == "hf":
        called = _of_datasets(block)[1]
    elif key is None or block["name"] not in ("csv", "json", "parquet"):
        return {}
    else:
        files = expand(block["path"])[0]
        called = list(dict.fromkeys(value for file in files for value in _values(block["name"], file, key)))
    return {split: value for split, words in SPLITS.items() for value in called if value.strip().lower() in words}


def _values(name: str, file: str, key: str) -> list[str]:
    """List the different cells of a column of a file."""
    if name == "parquet":
        with _named(file):
            return [str(value) for value in pq.read_table(file, columns=[key])[key].unique().to_pylist()]
    if name == "json":
        return list(dict.fromkeys(str(row.fields.get(key)) for row in read_rows(file) if isinstance(row, Row)))
    dialect = _dialect(file)
    column = read_columns(file, [key], Paths([]), dialect, auto=True).columns[key]
    return [str(value) for value in column.unique().to_pylist()]


def tell_endings(block: Mapping[str, Any]) -> dict[str, int]:
    """Count the endings of files side by side, or of the members of the first tar, by what a sample has of them."""
    files = expand(block["path"])[0]
    if block["name"] == "shards":
        found = index(Path(files[0]))
        endings = Counter(found.endings[row] for row in found.rows[:, ENDING].tolist())
    else:
        endings = Counter(split_name(file.name)[1] for file in walk(Path(files[0])))
    known = {"image": PICTURES, "text": ("txt",), "audio": SOUNDS, "vector": ("npy",), "label": ("cls",)}
    return {what: count for what, those in known.items() if (count := sum(endings[ending] for ending in those))}


def _role_of(key: str, cells: Sequence[object], distinct: int, root: Path) -> Role:
    """Tell what the filled cells of a column hold."""
    if not cells:
        return "empty"
    votes = Counter(_role_of_cell(cell, root) for cell in cells[:100])
    role, _ = votes.most_common(1)[0]
    if role == "words":
        return _words(key, cells, distinct)
    if role == "number":
        whole = all(float(str(cell)).is_integer() for cell in cells if _is_number(cell))
        if LABELS.search(key.lower()) and whole and distinct <= FEW:
            return "class"
        return "id" if whole and distinct == len(cells) and key.lower() in ("id", "index", "key", "uid") else "number"
    return cast(Role, role)


def _words(key: str, cells: Sequence[object], distinct: int) -> Role:
    """Tell texts from the names of classes and of things."""
    words = [str(cell) for cell in cells]
    spaces = sum(" " in word.strip() for word in words) / len(words)
    if key.lower() in CAPTIONS:
        return "text"
    if distinct <= max(2, min(FEW, len(cells) // 4)) and (LABELS.search(key.lower()) or spaces < 0.5):
        return "class"
    if spaces < 0.05 and distinct == len(cells) and (any(c.isdigit() for c in words[0]) or "id" in key.lower()):
        return "id"
    return "text"


def _role_of_cell(cell: object, root: Path) -> str:
    if isinstance(cell, dict):
        if "array" in cell:
            return "audio"
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return _role_of_bytes(cell)
    if isinstance(cell, bool):
        return "words"
    if isinstance(cell, int | float):
        return "number"
    if isinstance(cell, list | tuple):
        return _role_of_list(cell)
    text = str(cell).strip()
    if is_picture(text):
        return "image"
    if text.rpartition(".")[2].lower() in SOUNDS and "." in text:
        return "audio"
    if text.endswith(".npy"):
        return _role_of_npy(root / text)
    if _is_number(text):
        return "number"
    if text[:1] in "[(" and (listed := _listed(text)) is not None:
        return _role_of_list(listed)
    return "words"


def _listed(text: str) -> Sequence[object] | None:
    """Read a list that a cell holds as a text; None where it is none."""
    try:
        found = parse_text(text)
    except ValueError:
        try:
            found = unlist(text)
        except ValueError:
            return None
    return found if isinstance(found, list | tuple) else None


def _role_of_list(cell: Sequence[object]) -> str:
    if not cell:
        return "words"
    if isinstance(cell[0], list | tuple):
        return "sequence"
    if isinstance(cell[0], int | float) and not isinstance(cell[0], bool):
        return "vector"
    return "text" if any(" " in str(word).strip() for word in cell) else "classes"


def _role_of_npy(file: Path) -> str:
    try:
        return "sequence" if parse_npy(file.read_bytes()).ndim == 2 else "vector"
    except (OSError, ValueError):
        return "vector"


def _role_of_bytes(content: bytes) -> str:
    if content[:4] in (b"RIFF", b"fLaC", b"OggS") or content[:3] == b"ID3":
        return "audio" if content[8:12] != b"WEBP" else "image"
    try:
        Image.open(io.BytesIO(content))
        return "image"
    except OSError:
        return "vector" if content[:6] == b"\x93NUMPY" else "words"


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def order(columns: Sequence[Column]) -> Iterator[Column]:
    """Yield pictures first, then texts, then the rest, those of usual names before others."""
    rank = {"image": 0, "text": 1}
    usual = (*IMAGES, *CAPTIONS)
    yield from sorted(
        columns, key=lambda c: (rank.get(c.role, 2), usual.index(c.key.lower()) if c.key.lower() in usual else 99)
    )
