"""A file of embeddings while it is made: chunks of rows in FILE.parts, then FILE, which appears when it is whole.

FILE.parquet has a column for each field: vectors are lists of float32, sequences the bytes of a .npy [l, d], texts
lists of strings; beside them `id` and a column for each label. FILE.npz has an array for each.

The trap: two programs that write the same file. The folder of the chunks is locked.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.errors import writing
from workbench.loading.labels import Label
from workbench.loading.provenance import KEY
from workbench.types import Skipped

Row = dict[str, Any]
"""{field, "id" or "label NAME": its value}; a field that is missing is absent, or None"""
SUFFIXES = (".parquet", ".npz")
TYPES: Mapping[str, pa.DataType] = {
    "vector": pa.list_(pa.float32()),
    "sequence": pa.binary(),
    "text": pa.list_(pa.string()),
}
NOTES = b"workbench.embed.notes"
"""the key of what a chunk says of its rows"""


class Summary(NamedTuple):
    """What all chunks say of their rows."""

    filled: Counter[str]
    """{field: rows that have it}"""
    several: dict[str, int]
    bad: list[Skipped]


def refuse_name(path: Path) -> None:
    """Raise ValueError for a name of another ending."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out {path}: write a name that ends in {' or '.join(SUFFIXES)}")


class EmbeddingFile:
    """Chunks on their way to a file. As a context it holds the folder of the chunks.

    Args:
        path: the file.
        facts: who makes it: a file or chunks that say anything else are refused.
        fields: {field: vector, sequence or text}.
        labels: those of the data.
        named: whether ids are words, and not the numbers of rows.

    Raises ValueError for another ending, and where something else lies there.
    """

    def __init__(
        self,
        path: Path,
        facts: Mapping[str, object],
        fields: Mapping[str, str],
        labels: Mapping[str, Label],
        named: bool,
    ) -> None:
        refuse_name(path)
        self.path, self.facts = path, json.dumps(facts, sort_keys=True)
        self.id_type = pa.string() if named else pa.int64()
        self.parts = path.with_name(f"{path.name}.parts")
        taken = {"id", *fields}
        self.columns = {name: TYPES[kind] for name, kind in fields.items()}
        self.kinds = dict(fields)
        self.labels = {f"label {name}": f"label_{name}" if name in taken else name for name in labels}
        self.label_types = {f"label {name}": _type(label) for name, label in labels.items()}

    def __enter__(self) -> Self:
        with writing(self.parts):
            self.parts.mkdir(parents=True, exist_ok=True)
            self._lock = (self.parts / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(
                f"{self.path} is being written by another process: wait for it, or choose another --out"
            ) from None
        try:
            self._refuse_others()
        except ValueError:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _refuse_others(self) -> None:
        """Raise ValueError where chunks, or the file itself, were made otherwise."""
        request = self.parts / "request.json"
        if self._chunks() and request.read_text(encoding="utf-8") != self.facts:
            raise ValueError(
                f"{self.parts} holds the beginning of {self.path.name} by other encoders, data or settings: remove "
                "that folder to begin anew, or choose another --out"
            )
        _replace(request, self.facts.encode())

    def whole(self) -> Summary | None:
        """Tell what the file holds, where it is there and was made in the same way; None where it is not there.

        Raises ValueError for a file that was made otherwise, or by somebody else.
        """
        if not self.path.exists():
            return None
        try:
            facts, notes = _read_parquet(self.path) if self.path.suffix == ".parquet" else _read_npz(self.path)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            facts = notes = ""
        if facts != self.facts:
            raise ValueError(
                f"{self.path} is there already, and comes from other encoders, data or settings: remove it, or choose "
                "another --out"
            )
        shutil.rmtree(self.parts, ignore_errors=True)  # a program may have been killed behind its last step
        found = json.loads(notes)
        bad = [Skipped(*each) for each in found["bad"]]
        return Summary(Counter(found["filled"]), found["several"], bad)

    def has(self, begin: int) -> bool:
        """Say whether the chunk that begins with a row is there."""
        return self._chunk(begin).exists()

    def _chunk(self, begin: int) -> Path:
        return self.parts / f"{begin:012d}.parquet"

    def write(self, begin: int, rows: Sequence[Row], bad: Sequence[Skipped], several: Mapping[str, int]) -> None:
        """Write a chunk."""
        columns = {"id": pa.array([row["id"] for row in rows], self.id_type)}
        for name, type_ in self.columns.items():
            columns[name] = pa.array([_cell(row.get(name), self.kinds[name]) for row in rows], type_)
        for key, name in self.labels.items():
            columns[name] = pa.array([row.get(key) for row in rows], self.label_types[key])
        notes = json.dumps({"bad": bad, "several": several})
        table = pa.table(columns).replace_schema_metadata({NOTES: notes.encode()})
        out = io.BytesIO()
        pq.write_table(table, out)
        _replace(self._chunk(begin), out.getvalue())

    def _chunks(self) -> list[Path]:
        return sorted(self.parts.glob("*.parquet"))

    def summary(self) -> Summary:
        """Count what the chunks hold."""
        filled: Counter[str] = Counter()
        several: Counter[str] = Counter()
        bad: list[Skipped] = []
        for chunk in self._chunks():
            table = pq.read_table(chunk, memory_map=True)
            notes = json.loads(table.schema.metadata[NOTES])
            several.update(notes["several"])
            bad += [Skipped(*each) for each in notes["bad"]]
            for name in self.columns:
                filled[name] += len(table) - table[name].null_count
        return Summary(filled, {name: count for name, count in several.items() if count}, bad)

    def finish(self) -> None:
        """Make the file of the chunks, and remove them."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with writing(self.path):
            try:
                (self._write_parquet if self.path.suffix == ".parquet" else self._write_npz)(temporary)
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)
        shutil.rmtree(self.parts)

    def _write_parquet(self, to: Path) -> None:
        chunks = self._chunks()
        notes = json.dumps(self.summary()._asdict())
        schema = pq.read_schema(chunks[0]).with_metadata({KEY: self.facts.encode(), NOTES: notes.encode()})
        with pq.ParquetWriter(to, schema) as writer:
            for chunk in chunks:
                writer.write_table(pq.read_table(chunk).replace_schema_metadata(schema.metadata))

    def _write_npz(self, to: Path) -> None:
        """Write arrays: vectors [n, d], sequences [n, l, d] with a length [n] each, zeros where a row has none."""
        table = pa.concat_tables([pq.read_table(chunk).replace_schema_metadata() for chunk in self._chunks()])
        notes = json.dumps(self.summary()._asdict())
        arrays: dict[str, np.ndarray] = {"provenance": np.array(self.facts), "notes": np.array(notes)}
        for name in table.column_names:
            cells = table[name].to_pylist()
            if self.kinds.get(name) in ("vector", "sequence"):
                arrays |= _stacked(name, [_numbers(cell) for cell in cells])
            elif pa.types.is_list(table[name].type):  # texts, or several classes: a line each
                arrays[name] = np.array(["\n".join(cell or ()) for cell in cells])
            elif pa.types.is_string(table[name].type):
                arrays[name] = np.array([cell or "" for cell in cells])
            else:
                arrays[name] = table[name].to_numpy()
        with to.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def _type(label: Label) -> pa.DataType:
    if label.number:
        return pa.float64()
    return pa.list_(pa.string()) if label.many else pa.string()


def _cell(value: object, kind: str) -> object:
    if kind != "sequence" or value is None:
        return None if isinstance(value, list) and not value else value
    out = io.BytesIO()
    np.save(out, np.asarray(value, np.float32), allow_pickle=False)
    return out.getvalue()


def _numbers(cell: bytes | list[float] | None) -> np.ndarray | None:
    if isinstance(cell, bytes):
        return np.load(io.BytesIO(cell), allow_pickle=False)
    return None if cell is None else np.array(cell, np.float32)


def _stacked(name: str, values: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Stack arrays of which some are missing, and sequences of different lengths."""
    there = [value for value in values if value is not None]
    longest = np.max([value.shape for value in there], axis=0) if there else (0,)
    stacked = np.zeros((len(values), *longest), np.float32)
    for row, value in enumerate(values):
        if value is not None:
            stacked[(row, *map(slice, value.shape))] = value
    lengths = np.array([0 if value is None else len(value) for value in values])
    return {name: stacked, f"{name}_length": lengths}


def _read_parquet(path: Path) -> tuple[str, str]:
    metadata = pq.read_metadata(path).metadata
    return metadata[KEY].decode(), metadata[NOTES].decode()


def _read_npz(path: Path) -> tuple[str, str]:
    with np.load(path, allow_pickle=False) as arrays:
        return str(arrays["provenance"]), str(arrays["notes"])


def _replace(path: Path, content: bytes) -> None:
    """Write a file such that a crash leaves the old or the new content."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        temporary.write_bytes(content)
        os.replace(temporary, path)
