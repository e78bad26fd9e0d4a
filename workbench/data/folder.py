"""A folder of files: named by a metadata.jsonl or metadata.csv, or side by side with one stem, as `a.jpg` and `a.txt`.

Hugging Face's imagefolder has metadata files, {"file_name": ..., "text": ...} in each line, in any of its folders;
paths start from there. `text` may be a list of captions; lines with the same picture are one sample with several
captions. Without any such file, `a.jpg` goes with the lines of `a.txt`, as img2dataset's format `files` has it.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import pyarrow as pa

from workbench.loading.cells import lookup
from workbench.loading.choosing import USUAL, Wanted, is_picture
from workbench.loading.fields import AudioField, Fields, ImageField, Keys, TextField
from workbench.loading.json_lists import Row, listed, read_lines
from workbench.loading.members import make_readers
from workbench.loading.name_lists import choose_named, file_of
from workbench.loading.paths import Paths, by_split, describe, expand, name_splits, walk
from workbench.loading.samples import Samples
from workbench.loading.samples_in_files import FileSamples
from workbench.loading.samples_in_lists import Listed, ListedSamples, lead_of, mixed_rows, require_columns, split_column
from workbench.loading.separated import Paths as PathColumns
from workbench.loading.separated import read_columns, tell_dialect
from workbench.loading.table import Table
from workbench.types import Skipped

__all__ = ["Folder"]

METADATA = ("metadata.jsonl", "metadata.csv")


class Choice(NamedTuple):
    """A folder, or several; and the list that names the samples wanted of it."""

    folders: Paths
    names: str | None


class Folder(Samples[Choice]):
    """Samples of a folder; where it has metadata files, pictures that none of them names are only counted.

    `from` is a key of the metadata. Without them it is the ending of files side by side, as jpg or json:caption, as it
    is with a dot before it, as .cap or .json:caption.

    Args:
        path: the folder of the training samples, or a list of folders.
        names: list of those of its files that are trained on, where they lie side by side: a text file with a name a
            line, or a list in a JSON file, as split.json:train; null: all.
        splits: further ones, by name: folders, or lists of names in `path`, as {test: {names: split.json:test}}.
    """

    usual: ClassVar[Mapping[str, Keys]] = {"image": "file_name", "text": "text"}

    def __init__(
        self,
        *,
        path: Paths,
        names: str | None = None,
        splits: Mapping[str, Paths | Mapping[str, str]] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(Choice(path, names), splits=cast(Any, splits), **more)
        given: Fields = more.get("fields") or Fields()
        usual = {name: USUAL[cast(Any, field).kind] for name, field in self.declared.items()}
        said = {name: field.keys for name, field in given.items() if field.from_ is not None}
        self.wanted = Wanted.parse({**self.columns, **usual, **said}, self.declared)
        self.beside_one_another = any(key.startswith(".") for keys in said.values() for key in keys)
        self.lead = lead_of(self.declared)
        self.paths = [name for name, field in self.declared.items() if isinstance(field, ImageField | AudioField)]
        texts = {name for name, field in self.declared.items() if isinstance(field, TextField)}
        self.written_columns = {*self.columns} - {*self.paths} - texts

    def source(self, value: Paths | Mapping[str, str]) -> Choice:
        if not isinstance(value, Mapping):
            return Choice(value, None)
        if set(value) != {"names"}:
            raise ValueError(f"splits: a split is a folder, or {{names: split.json:test}}, and not {dict(value)}")
        return Choice(self.path.folders, value["names"])

    def absent(self, source: Choice) -> str | None:
        found, absent = expand(source.folders)
        absent += [path for path in found if not Path(path).is_dir()]
        if found and not absent:
            if source.names is None or file_of(source.names).is_file():
                return None
            key = "data.names" if source == self.path else f"{self.key_of(source)}.names"
            return f"no file '{file_of(source.names)}' of names: point to yours with --set {key}=/where/train.txt"
        where = f"'{absent[0]}'" if absent else describe(source.folders)
        return f"no folder {where}: point to yours (pictures and {METADATA[0]}) with --set {self.key_of(source)}=/where"

    def table(self, source: Choice) -> Table:
        if complaint := self.absent(source):
            raise ValueError(complaint)
        folders = [Path(folder) for folder in expand(source.folders)[0]]
        lists = [(folder, file) for folder in folders for file in walk(folder) if file.name in METADATA]
        files = [file for _, file in lists]
        doubled = (file for file in files if file.suffix == ".csv" and file.with_suffix(".jsonl") in files)
        if twice := next(doubled, None):
            raise ValueError(f"{twice.parent} has metadata.jsonl and metadata.csv: remove or rename one of them")
        if lists and not self.beside_one_another:
            if source.names is not None:
                raise ValueError(
                    f"names are of files side by side, and {files[0]} lists rows: choose them by data.where of json"
                )
            return self._listed_by(folders, files, describe(source.folders))
        if len(folders) > 1:
            raise ValueError(
                f"none of {describe(source.folders)} has a {METADATA[0]}: without one, data.path is one folder"
            )
        found = FileSamples(folders[0], self.wanted, make_readers(self.wanted, self.declared, folders[0]))
        if not len(found):
            nouns = [self.wanted.slots[slots[0]].noun for slots in self.wanted.fields.values()]
            raise ValueError(
                f"{folders[0]} has no {METADATA[0]}: write one with a line a picture, "
                '{"file_name": "a.jpg", "text": "a caption"}; "text" may be a list. '
                f"Nor has it a {nouns[0]} with a {' or '.join(nouns[1:])} beside it{_what_else(folders[0])}"
                + (f"; the first that is none is {found.left_out[0]}" if found.left_out else "")
            )
        if source.names is not None:
            return choose_named(found, source.names)
        found.mixed = mixed_folders(folders, {Path(found.name(index)).parent for index in range(len(found))})
        return found

    def _listed_by(self, folders: list[Path], files: list[Path], where: str) -> Table:
        keys: dict[str, None] = {}
        lists = [self._read(file, keys) for file in files]
        if not any(len(each) or each.left_out for each in lists):
            raise ValueError(f"the metadata of {where} has no line: write one a picture")
        if not keys:
            first = next(skipped for each in lists for skipped in each.left_out)
            raise ValueError(f"the metadata of {where} has no line that is a row; the first is {first}")
        require_columns([key for each in self.columns.values() for key in each], list(keys), f"the metadata of {where}")
        return FolderSamples(lists, self, folders, mixed_folders(folders, {file.parent for file in files}))

    def _read(self, file: Path, keys: dict[str, None]) -> Listed:
        """Read the rows of a metadata file; `keys` collects what is in them."""
        if file.suffix == ".csv":
            return self._read_csv(file, keys)
        rows: list[Row] = []
        left_out: list[Skipped] = []
        wanted = dict.fromkeys(key for each in self.columns.values() for key in each)
        for row in read_lines(str(file), file.read_bytes()):
            if isinstance(row, Row):
                keys |= dict.fromkeys(row.fields) | {key: None for key in wanted if lookup(row.fields, key) is not None}
                rows.append(Row(row.name, {**row.fields, **self._normal(row.fields)}))
            else:
                left_out.append(row)
        found = listed(file.parent, rows, self.columns, self, left_out)
        told = split_column([*dict.fromkeys(key for row in rows for key in row.fields)])
        found.mixed = self._mixed(file, told, [str(row.fields.get(told)) for row in rows]) if told else None
        return found

    def _mixed(self, file: Path, column: str, splits: list[str]) -> str | None:
        """Say that the rows of a metadata file are of several splits, and which source can choose some of them."""
        source = "csv" if file.suffix == ".csv" else "json"
        keys = ", ".join(f"{name}: {{from: {_spell(keys)}}}" for name, keys in self.columns.items())
        said = f"read it by data.name={source} with data.path={file} and data.fields={{{keys}}}, "
        return mixed_rows(str(file), column, Counter(splits), said)

    def _read_csv(self, file: Path, keys: dict[str, None]) -> Listed:
        wanted = list(dict.fromkeys(key for each in self.columns.values() for key in each))
        dialect = tell_dialect(str(file), wanted, None, "auto")
        require_columns(wanted, dialect.header, str(file))
        keys |= dict.fromkeys(dialect.header)
        paths = PathColumns([key for name in self.paths for key in self.columns[name]], self._lead_key())
        told = split_column(dialect.header)
        further = [told] if told and told not in wanted else []
        found = read_columns(str(file), [*wanted, *further], paths, dialect, auto=True)
        mixed = self._mixed(file, told, found.columns[told].to_pylist()) if told else None
        columns: dict[str, list[pa.ChunkedArray]] = {}
        for name, each in self.columns.items():
            cells = [found.columns[key] for key in each]
            if name in self.written_columns:
                rows = zip(*(column.to_pylist() for column in cells), strict=True)
                cells = [pa.chunked_array([[json.dumps(row) for row in rows]], pa.large_string())]
            columns[name] = cells
        return Listed(file.parent, columns, found.left_out, mixed=mixed)

    def _lead_key(self) -> str | None:
        return self.columns[self.lead][0] if self.lead else None

    def _normal(self, row: Mapping[str, object]) -> dict[str, object]:
        """Write paths as the system does, so that './a.jpg' and 'a.jpg' are one picture."""
        found = {key: row.get(key) for name in self.paths for key in self.columns[name]}
        return {key: os.path.normpath(path) for key, path in found.items() if isinstance(path, str) and path}


def _spell(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"[{', '.join(keys)}]"


class FolderSamples(ListedSamples):
    """The samples that metadata files name; how many other pictures there are is counted when somebody asks."""

    def __init__(self, lists: list[Listed], layout: Folder, folders: list[Path], mixed: str | None) -> None:
        super().__init__(lists, layout.paths, layout.lead, layout.written_columns, mixed)
        self._folders = folders

    @property
    def beside(self) -> Mapping[str, int]:
        named = {_spelled(Path(self.folder, cell)) for cell in self._named()}
        others = (_spelled(file) for folder in self._folders for file in walk(folder) if is_picture(file.name))
        return Counter({"pictures that no metadata names": sum(1 for file in others if file not in named)})

    def _named(self) -> Iterable[str]:
        """List the paths of every row."""
        for name in self.paths:
            for index in range(len(self)):
                yield from (str(cell) for cell in self.cells(index, name))


def _spelled(file: str | Path) -> str:
    """Spell a path in one way: absolute, accents in one form."""
    return unicodedata.normalize("NFC", os.path.abspath(file))  # noqa: PTH100


def mixed_folders(folders: list[Path], parents: set[Path]) -> str | None:
    """Say that one of the folders holds several splits, each in a folder of its own."""
    for folder in folders:
        groups = by_split([parent / "x" for parent in sorted(parents) if folder == parent or folder in parent.parents])
        if some := name_splits(groups, lambda file: Path(file).parent):
            return (
                f"'{folder}' mixes splits: {some}: point data.path and data.validation to one of them each, or to a "
                "list of folders to train on all of them"
            )
    return None


def _what_else(folder: Path) -> str:
    """Say what there is instead, where pictures lie in folders that may be classes."""
    classes = sorted({file.parent.name for file in walk(folder) if is_picture(file.name) and file.parent != folder})
    if len(classes) < 2:
        return ""
    names = ", ".join(classes[:3])
    return (
        f"; its pictures lie in {len(classes)} folders ({names}, ...): to take their names as captions, use "
        "--source hf with fields.text.from=label"
    )
