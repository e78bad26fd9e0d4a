"""What `wb search` looks through: the items of one field in a folder, in a file of lines, in a source of data, or the
vectors of such a field in a file that `wb embed --shared` has written.

The trap: a folder of pictures may hold lists and texts, too. Only files of the field's own kind are candidates, and a
list is read where it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.build import Parts
from workbench.errors import BadSample, shorten
from workbench.inspection.open_data import EXTENSIONS, is_recipe, open_data
from workbench.loading.captions import LINE_END, decode_text
from workbench.loading.choosing import USUAL
from workbench.loading.paths import walk
from workbench.loading.provenance import read_provenance
from workbench.loading.samples import Samples
from workbench.runs.items import NOUNS, Reader
from workbench.runs.towers import SHARED, towers_of
from workbench.types import Data, Kind, Skipped

Tell = Callable[[int, int], None]
"""is called with (rows that are done, all rows)"""
CHUNK = 128
"""items that are read before they are embedded; pictures of 224 pixels then take 77 MB"""
ROWS = 8192
"""vectors that are read at once of a file"""


class Place(NamedTuple):
    """Where a candidate stands: its row, and which of the row's items it is."""

    row: int
    item: int = 0


@dataclass
class Seen:
    """What was looked through so far, counted."""

    candidates: int = 0
    missing: int = 0
    """rows that lack the field"""
    bad: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class RawItems:
    """Raw items by row, read when their turn comes."""

    rows: int
    name: Callable[[int], str]
    read: Callable[[int], Sequence[object]]
    """the items of a row, none where it lacks the field. Raises BadSample, OSError and ValueError"""

    def inputs(self, reader: Reader, seen: Seen, tell: Tell) -> Iterator[tuple[list[Place], Tensor]]:
        """Yield chunks of model inputs [n, ...] with their places; what cannot be read is counted as bad."""
        places: list[Place] = []
        inputs: list[Tensor] = []
        for row in range(self.rows):
            for place, x in self._row(row, reader, seen):
                places.append(place)
                inputs.append(x)
                if len(inputs) == CHUNK:
                    yield places, torch.stack(inputs)
                    places, inputs = [], []
            tell(row + 1, self.rows)
        if inputs:
            yield places, torch.stack(inputs)

    def _row(self, row: int, reader: Reader, seen: Seen) -> Iterator[tuple[Place, Tensor]]:
        try:
            items = self.read(row)
            seen.missing += not items
            made = [reader.input(item) for item in items]
            if any(x.is_floating_point() and not x.isfinite().all() for x in made):
                raise ValueError("holds NaN or infinity")
        except BadSample as error:
            seen.bad.append(Skipped(str(error.name), str(error.reason)))
        except (OSError, ValueError) as error:
            seen.bad.append(Skipped(self.name(row), shorten(str(error))))
        else:
            seen.candidates += len(made)
            yield from ((Place(row, at), x) for at, x in enumerate(made))

    def show(self, place: Place) -> tuple[str, object]:
        """Give the name of a candidate and its raw item, which is read again."""
        return self.name(place.row), self.read(place.row)[place.item]


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of a field in a file of `wb embed`, a row each."""

    path: Path
    field: str

    def chunks(
        self, seen: Seen, tell: Callable[[int, int], None]
    ) -> Iterator[tuple[list[Place], Float[Tensor, "n d"]]]:
        """Yield chunks of vectors with their places."""
        with pq.ParquetFile(self.path) as file:
            rows, begin = file.metadata.num_rows, 0
            for batch in file.iter_batches(ROWS, columns=[self.field]):
                column = cast(pa.ListArray, batch.column(0))
                there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
                seen.missing += len(column) - len(there)
                seen.candidates += len(there)
                flat = column.drop_null().flatten().to_numpy(zero_copy_only=False)
                if len(there):
                    z = torch.from_numpy(flat.reshape(len(there), -1).copy())
                    yield [Place(begin + int(row)) for row in there], z
                begin += len(column)
                tell(begin, rows)

    def show(self, place: Place) -> tuple[str, object]:
        """Give the id of a row, or its number, and its text where the file has one."""
        with pq.ParquetFile(self.path) as file:
            begin = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if place.row < begin + rows:
                    break
                begin += rows
            names = [name for name in ("id", "text") if name in file.schema_arrow.names and name != self.field]
            (row,) = file.read_row_group(group, columns=names).slice(place.row - begin, 1).to_pylist() or [{}]
        texts = row.get("text")
        name = f"row {place.row}" if row.get("id") in (None, place.row) else str(row["id"])
        return name, texts[0] if isinstance(texts, list) and texts and isinstance(texts[0], str) else None


def open_candidates(
    where: str, name: str, parts: Parts, *, split: str, source: str | None, settings: tuple[str, ...]
) -> RawItems | Vectors:
    """Open what is looked through for items of a field.

    Args:
        where: a folder or file of items, a file of lines, a source of data, or a file of `wb embed --shared`.
        name: the field.
        parts: those of the run, whose towers must have made a file of embeddings.
        split: the rows of a source.
        source: what lies there, where that cannot be told.
        settings: key=value of its data block.

    Raises RecipeError and ValueError for what is not there, or has no such items.
    """
    path, kind = Path(where).expanduser(), parts.data.modalities[name].kind
    if source or settings or is_recipe(where):
        return _of_source(where, name, kind, split, source, settings)
    if path.suffix == ".parquet" and path.is_file() and (found := _vectors(path, name, parts)):
        return found
    if path.is_dir():
        files = list(walk(path))
        chosen = [file for file in files if file.suffix[1:].lower() in USUAL[kind]]
        if chosen:
            return _of_lines(chosen) if kind == "text" else _of_files(chosen)
        try:
            return _of_source(where, name, kind, split, source, settings)
        except ValueError as error:
            known = ", ".join(f".{ending}" for ending in USUAL[kind][:4])
            has = f"it has {len(files)} other files, as {files[0].name}" if files else "it is empty"
            raise ValueError(f"{where} has no {NOUNS[kind]} ({known}, ...): {has} ({shorten(str(error))})") from None
    if path.is_file() and path.suffix.lower() not in EXTENSIONS:
        if kind == "text":
            return _of_lines([path])
        if path.suffix[1:].lower() in USUAL[kind]:
            return _of_files([path])
    return _of_source(where, name, kind, split, source, settings)


def _of_files(files: Sequence[Path]) -> RawItems:
    return RawItems(len(files), lambda row: str(files[row]), lambda row: [files[row]])


def _of_lines(files: Sequence[Path]) -> RawItems:
    """Make a candidate of every line that is not blank."""
    lines: list[tuple[str, str]] = []
    for file in files:
        try:
            text = decode_text(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        found = ((f"{file}:{at}", line.strip()) for at, line in enumerate(LINE_END.split(text), 1))
        lines += [(name, line) for name, line in found if line]
    if not lines:
        raise ValueError(f"{', '.join(map(str, files[:3]))}: no line of text: write a text a line")
    return RawItems(len(lines), lambda row: lines[row][0], lambda row: [lines[row][1]])


def _of_source(
    where: str, name: str, kind: Kind, split: str, source: str | None, settings: tuple[str, ...]
) -> RawItems:
    _, data = open_data(where, source, settings)
    if name not in data.modalities:
        have = ", ".join(data.modalities)
        raise ValueError(
            f"{where} has no field '{name}': it has {have}; --set fields.{name}.from=COLUMN says where it is"
        )
    if (theirs := data.modalities[name].kind) != kind:
        raise ValueError(f"field '{name}' of {where} is {theirs}, and the run's is {kind}")
    return _of_table(data, name, split) if isinstance(data, Samples) else _of_split(data, name, split)


def _of_table(data: Samples[object], name: str, split: str) -> RawItems:
    if complaint := data.missing() if split == "train" else data.missing_held_out():
        raise ValueError(complaint)
    table, section = data.rows(split), data.fields[name]
    return RawItems(len(table), table.name, lambda row: section.read(table.cells(row, name), table.root(row, name)))


def _of_split(data: Data, name: str, split: str) -> RawItems:
    """Take the items of a split that is no table; a text of the same id says what an item is."""
    found = data.split(split)
    items, texts = found.items[name], found.items.get("text")
    said: dict[int, str] = {}
    if texts is not None and texts is not items:
        for text, id_ in zip(texts.raw, texts.ids.tolist(), strict=True):
            said.setdefault(id_, str(text))
    ids = items.ids.tolist()
    return RawItems(len(items), lambda row: said.get(ids[row], f"item {row}"), lambda row: [items.raw[row]])


def _vectors(path: Path, name: str, parts: Parts) -> Vectors | None:
    """Open a file of `wb embed`; None where another program wrote it. Raises ValueError where it does not suit."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is no parquet file that can be read: {shorten(str(error))}") from None
    found = read_provenance(schema.metadata, str(path))
    if found is None:
        return None
    facts = found.facts
    again = f"write it anew with `wb embed DATA --with RUN --shared --out {path.name}`"
    if facts.get("what") != SHARED:
        raise ValueError(f"{path} holds {facts.get('what')} embeddings, which cannot be compared with a query: {again}")
    made = [each for each in cast(Mapping[str, object], facts["encoders"]) if each in parts.model.encoders]
    if name not in made:
        raise ValueError(f"{path} has no embeddings of '{name}': it has those of {', '.join(made) or 'other fields'}")
    if (own := towers_of(parts, "", made).digest(SHARED)) != found.by:
        raise ValueError(
            f"{path} comes from other weights than those of this run and checkpoint (embedded_by {found.by}, and these "
            f"are {own}): {again}, or name its checkpoint (it says step {facts.get('step')})"
        )
    return Vectors(path, name)
