"""JSON and JSON Lines that list rows: COCO's captions, Karpathy's splits, lists of rows.

The trap: COCO and Karpathy name a picture without the folder it is in, which `data.root` says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from workbench.errors import did_you_mean, shorten
from workbench.loading.captions import MARKS, decode_text, flat, load_json, whole
from workbench.loading.cells import is_empty, lookup
from workbench.loading.choosing import is_picture
from workbench.loading.samples_in_lists import CAPTIONS, IMAGES, Listed
from workbench.types import Skipped


class Row(NamedTuple):
    """A picture and its captions, as a list has them."""

    name: str
    """where it stands"""
    fields: Mapping[str, object]


def read_rows(file: str) -> Iterator[Row | Skipped]:
    """Read the rows of a list, whatever its layout. Raises ValueError when it has none that is known."""
    content = Path(file).read_bytes()
    if file.lower().endswith((".jsonl", ".ndjson")):
        yield from read_lines(file, content)
        return
    try:
        found = load_json(content)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON that can be read: {error}") from None
    found = _unwrap(found)
    if isinstance(found, dict) and isinstance(found.get("images"), list):
        coco = isinstance(found.get("annotations"), list)
        yield from _coco(file, found) if coco else _karpathy(file, found["images"])
    elif isinstance(found, list):
        for number, item in enumerate(found):
            yield Row(f"{file}: item {number}", item) if isinstance(item, dict) else _no_row(f"{file}: item {number}")
    elif isinstance(found, dict) and found and is_picture(next(iter(found))):
        yield from (Row(f"{file}: '{name}'", {"image": name, "caption": said}) for name, said in found.items())
    else:
        raise ValueError(
            f"{file} is neither COCO's JSON (images and annotations), nor Karpathy's (images with sentences), nor a "
            'list of rows as {"image": "a.jpg", "caption": "a bird"}'
        )


def _unwrap(found: object) -> object:
    """Take the rows out of a block that holds nothing else: `{"data": [{...}]}`, `{"0": {...}}`, or one row."""
    if not isinstance(found, dict) or not found or "images" in found:
        return found
    if {*IMAGES} & {*found} and {*CAPTIONS} & {*found}:
        return [found]
    values = list(found.values())
    if len(values) == 1 and isinstance(values[0], list) and values[0] and isinstance(values[0][0], dict):
        return values[0]
    rows = all(isinstance(value, dict) and {*IMAGES} & {*value} for value in values)
    return values if rows else found


def read_lines(file: str, content: bytes) -> Iterator[Row | Skipped]:
    """Read JSON Lines; a line that is no row is one that was left out."""
    if any(content.startswith(mark) for mark, _ in MARKS):
        try:
            content = decode_text(content).encode()
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", content), 1):  # none of which JSON allows within a text
        if not line.strip():
            continue
        name = f"{file}: line {number}"
        try:
            found = load_json(line)
        except ValueError as error:
            yield Skipped(name, f"no JSON: {error}")
            continue
        yield Row(name, found) if isinstance(found, dict) else _no_row(name)


def _no_row(name: str) -> Skipped:
    return Skipped(name, "no row: a row is {key: value}")


def _coco(file: str, found: Mapping[str, list]) -> Iterator[Row | Skipped]:
    """Join annotations to images by the id of the image."""
    said: dict[str, list[object]] = {}
    images: dict[str, dict] = {}
    names: dict[str, list[object]] = {}
    for number, image in enumerate(found["images"]):
        key, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if key is None:
            yield Skipped(f"{file}: image {number}", "no image: it has no id")
            continue
        images.setdefault(str(key), image)  # some files write the same id as a number and as a text
        names.setdefault(str(key), []).append(name)
    for number, annotation in enumerate(found["annotations"]):
        key = annotation.get("image_id") if isinstance(annotation, dict) else None
        if key is None or str(key) not in images or "caption" not in annotation:
            yield Skipped(f"{file}: annotation {number}", "of no image, or without a caption")
        else:
            said.setdefault(str(key), []).append(annotation["caption"])
    for key, image in images.items():
        if len(set(map(str, names[key]))) > 1:
            for name in names[key]:
                yield Skipped(f"{file}: image {key} ({name})", "its id is that of another image, too: whose captions?")
        elif key in said:
            yield Row(f"{file}: image {key}", {"file_name": image.get("file_name"), "caption": said[key]})
        else:
            yield Skipped(f"{file}: image {key} ({image.get('file_name')})", "no annotation")


def _karpathy(file: str, images: list[object]) -> Iterator[Row | Skipped]:
    """Read dataset_coco.json, dataset_flickr30k.json and the like: a picture, its sentences, its split."""
    for number, image in enumerate(images):
        name = f"{file}: image {number}"
        sentences = image.get("sentences") if isinstance(image, dict) else None
        if not isinstance(image, dict) or not isinstance(sentences, list):
            yield Skipped(name, "no sentences")
            continue
        path = os.path.join(str(image.get("filepath") or ""), str(image.get("filename") or ""))  # noqa: PTH118
        said = [each.get("raw") if isinstance(each, dict) else each for each in sentences]
        yield Row(name, {"filename": path, "caption": said, "split": image.get("split")})


def find_keys(fields: Mapping[str, object], known: tuple[str, ...], what: str, where: str) -> str:
    """Find what a list calls its pictures or captions. Raises ValueError naming the keys there are."""
    key = next((key for key in known if key in fields), None)
    if key is None:
        raise ValueError(f"{where} has no key of {what}{did_you_mean(known[0], list(map(str, fields)))}")
    return key


class Layout(Protocol):
    """Says which columns hold what."""

    @property
    def paths(self) -> Sequence[str]: ...

    @property
    def lead(self) -> str | None: ...

    @property
    def written_columns(self) -> Collection[str]: ...


def listed(
    root: Path, rows: list[Row], columns: Mapping[str, Sequence[str]], layout: Layout, left_out: list[Skipped]
) -> Listed:
    """Put rows into Arrow's memory, and those that lack their lead, or hold half a character, into `left_out`."""
    found: dict[str, list[list[object]]] = {name: [] for name in columns}
    for row in rows:
        cells = {name: [lookup(row.fields, key) for key in keys] for name, keys in columns.items()}
        if layout.lead is not None and (wrong := _no_path(cells[layout.lead][0])):
            left_out.append(Skipped(row.name, f"names no picture: '{columns[layout.lead][0]}' is {wrong}"))
            continue
        try:
            stored = {name: _stored(name, each, layout) for name, each in cells.items()}
        except ValueError as error:
            left_out.append(Skipped(row.name, str(error)))
            continue
        for name, each in stored.items():
            found[name].append(each)
    arrays = {name: list(_arrays(name, cells, len(columns[name]), layout)) for name, cells in found.items()}
    return Listed(root, arrays, left_out)


def _no_path(cell: object) -> str:
    """Spell a cell that names no file; an empty text where it does."""
    return "" if isinstance(cell, str) and cell else "empty" if cell == "" else repr(cell)


def _stored(name: str, cells: list[object], layout: Layout) -> list[object]:
    """Make of the cells of a column what Arrow holds. Raises ValueError."""
    if name in layout.written_columns:
        return [json.dumps(cells)]
    if name in layout.paths:
        paths = [cell.get("path") or cell if isinstance(cell, Mapping) else cell for cell in cells]
        if wrong := [cell for cell in paths if not is_empty(cell) and not isinstance(cell, str)]:
            raise ValueError(f"names no file: '{name}' is {shorten(repr(wrong[0]), 60)}")
        texts: list[object] = [cell if isinstance(cell, str) else "" for cell in paths]
    else:
        said = flat(cells)
        texts = [text for text in said if isinstance(text, str)]
        others = [text for text in said if not isinstance(text, str) and not is_empty(text)]
        if others and not texts:
            raise ValueError(f"no caption: '{name}' is {shorten(repr(others[0]), 60)}")
    if not all(whole(text) for text in texts if isinstance(text, str)):
        raise ValueError("holds half a character (a lone surrogate): write it anew")
    return texts


def _arrays(name: str, cells: list[list[object]], keys: int, layout: Layout) -> Iterator[pa.ChunkedArray]:
    """Make a column of lists of texts; of paths, and of what is written as JSON, one column for each key."""
    if name not in layout.paths and name not in layout.written_columns:
        yield pa.chunked_array([cells], pa.list_(pa.large_string()))
        return
    for place in range(1 if name in layout.written_columns else keys):
        yield pa.chunked_array([[each[place] for each in cells]], pa.large_string())
