"""A folder of pictures with their captions: in a metadata.jsonl or metadata.csv, or in a .txt beside each picture.

Hugging Face's imagefolder has metadata files, {"file_name": ..., "text": ...} in each line, in any of its folders;
paths start from there. `text` may be a list of captions; lines with the same picture are one sample with several
captions. Without any such file, `a.jpg` goes with the lines of `a.txt`, as img2dataset's format `files` has it.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.loading.captions import CaptionReader
from workbench.loading.choosing import Wanted, is_picture
from workbench.loading.json_lists import Row, listed, read_lines
from workbench.loading.pairs import Keys, Pairs
from workbench.loading.pairs_in_files import FilePairs
from workbench.loading.pairs_in_lists import Listed, ListedPairs, mixed_rows, require_columns, split_column
from workbench.loading.paths import Paths, as_tuple, by_split, describe, expand, walk
from workbench.loading.separated import read_columns, tell_dialect
from workbench.loading.table import Table
from workbench.types import Skipped

__all__ = ["Folder"]

METADATA = ("metadata.jsonl", "metadata.csv")


class Folder(Pairs[Paths]):
    """Image-text pairs of a folder; where it has metadata files, pictures that none of them names are only counted.

    Args:
        path: the folder of the training pairs, or a list of folders.
        validation: a folder of held-out pairs for evaluation, likewise.
        image_key: the key of a picture's path in metadata.jsonl.
        caption_key: the key of a caption or of a list of them, or a list of keys; `.cap` takes the files of that ending
            beside the pictures instead of `.txt`, `.json:caption` what theirs hold under a key.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        image_key: str = "file_name",
        caption_key: Keys = "text",
        **more: Any,
    ) -> None:
        super().__init__(path, validation, **more)
        self.image_key, self.caption_keys = image_key, as_tuple(caption_key)

    def absent(self, source: Paths) -> str | None:
        found, absent = expand(source)
        absent += [path for path in found if not Path(path).is_dir()]
        if found and not absent:
            return None
        where = f"'{absent[0]}'" if absent else describe(source)
        return f"no folder {where}: point to yours (pictures and {METADATA[0]}) with --set {self.key_of(source)}=/where"

    def table(self, source: Paths) -> Table:
        if complaint := self.absent(source):
            raise ValueError(complaint)
        folders = [Path(folder) for folder in expand(source)[0]]
        lists = [(folder, file) for folder in folders for file in walk(folder) if file.name in METADATA]
        wanted = self._wanted()
        files = [file for _, file in lists]
        if twice := next(
            (file for file in files if file.with_suffix(".jsonl") in files and file.suffix == ".csv"), None
        ):
            raise ValueError(f"{twice.parent} has metadata.jsonl and metadata.csv: remove or rename one of them")
        if lists and not wanted:
            return self._listed_by(folders, files, describe(source))
        if len(folders) > 1:
            raise ValueError(f"none of {describe(source)} has a {METADATA[0]}: without one, data.path is one folder")
        pairs = FilePairs(folders[0], wanted or Wanted(), CaptionReader((wanted or Wanted()).key))
        pairs.mixed = mixed_folders(folders, {Path(pairs.name(index)).parent for index in range(len(pairs))})
        if not len(pairs):
            raise ValueError(
                f"{folders[0]} has no {METADATA[0]}: write one with a line a picture, "
                '{"file_name": "a.jpg", "text": "a caption"}; "text" may be a list. '
                f"Nor has it a picture with a .{(wanted or Wanted()).text} beside it" + _what_else(folders[0])
            )
        return pairs

    def _wanted(self) -> Wanted | None:
        """Read the ending of captions beside pictures, where the recipe names one."""
        key = self.caption_keys[0]
        return Wanted.parse(None, key) if len(self.caption_keys) == 1 and key.startswith(".") else None

    def _listed_by(self, folders: list[Path], files: list[Path], where: str) -> Table:
        keys: dict[str, None] = {}
        lists = [self._read(file, keys) for file in files]
        if not any(len(each.images) or each.left_out for each in lists):
            raise ValueError(f"the metadata of {where} has no line: write one a picture")
        if not keys:
            first = next(skipped for each in lists for skipped in each.left_out)
            raise ValueError(f"the metadata of {where} has no line that is a row; the first is {first}")
        require_columns([self.image_key, *self.caption_keys], list(keys), f"the metadata of {where}")
        return FolderPairs(lists, folders, mixed_folders(folders, {file.parent for file in files}))

    def _read(self, file: Path, keys: dict[str, None]) -> Listed:
        """Read the rows of a metadata file; `keys` collects what is in them."""
        rows: list[Row] = []
        left_out: list[Skipped] = []
        if file.suffix == ".csv":
            wanted = [self.image_key, *self.caption_keys]
            dialect = tell_dialect(str(file), wanted, None, "auto")
            require_columns(wanted, dialect.header, str(file))
            keys |= dict.fromkeys(dialect.header)
            told = split_column(dialect.header)
            columns: list[str] = list(dict.fromkeys([*wanted, *([told] if told else [])]))
            found = read_columns(str(file), columns, self.image_key, dialect, auto=True)
            captions = [found.columns[key] for key in self.caption_keys]
            mixed = self._mixed(file, told, found.columns[told].to_pylist()) if told else None
            return Listed(file.parent, found.columns[self.image_key], captions, found.left_out, mixed=mixed)
        for row in read_lines(str(file), file.read_bytes()):
            if isinstance(row, Row):
                keys |= dict.fromkeys(row.fields)
                path = _normal(row.fields.get(self.image_key), self.image_key)
                rows.append(Row(row.name, {**row.fields, **path}))
            else:
                left_out.append(row)
        found = listed(file.parent, rows, self.image_key, self.caption_keys, left_out)
        told = split_column([*dict.fromkeys(key for row in rows for key in row.fields)])
        found.mixed = self._mixed(file, told, [str(row.fields.get(told)) for row in rows]) if told else None
        return found

    def _mixed(self, file: Path, column: str, splits: list[str]) -> str | None:
        """Say that the rows of a metadata file are of several splits, and which source can choose some of them."""
        source, image = ("csv", "img_key") if file.suffix == ".csv" else ("json", "image_key")
        keys = f"data.{image}={self.image_key} and data.caption_key=[{', '.join(self.caption_keys)}]"
        return mixed_rows(
            str(file), column, Counter(splits), f"read it by data.name={source} with data.path={file}, {keys}, "
        )


class FolderPairs(ListedPairs):
    """The pairs that metadata files name; how many other pictures there are is counted when somebody asks."""

    def __init__(self, lists: list[Listed], folders: list[Path], mixed: str | None) -> None:
        super().__init__(lists, mixed)
        self._folders = folders

    @property
    def beside(self) -> Mapping[str, int]:
        named = {_spelled(self.name(index)) for index in range(len(self))}
        others = (_spelled(file) for folder in self._folders for file in walk(folder) if is_picture(file.name))
        return Counter({"pictures that no metadata names": sum(1 for file in others if file not in named)})


def _spelled(file: str | Path) -> str:
    """Spell a path in one way: absolute, accents in one form."""
    return unicodedata.normalize("NFC", os.path.abspath(file))  # noqa: PTH100


def mixed_folders(folders: list[Path], parents: set[Path]) -> str | None:
    """Say that one of the folders holds several splits, each in a folder of its own."""
    for folder in folders:
        groups = by_split([parent / "x" for parent in sorted(parents) if folder == parent or folder in parent.parents])
        if len(groups) > 1 and {"validation", "test"} & groups.keys():
            some = ", ".join(f"{split or 'others'} ({Path(found[0]).parent})" for split, found in groups.items())
            return (
                f"'{folder}' mixes splits: {some}: point data.path and data.validation to one of them each, or to a "
                "list of folders to train on all of them"
            )
    return None


def _normal(path: object, key: str) -> dict[str, object]:
    """Write a path as the system does, so that './a.jpg' and 'a.jpg' are one picture."""
    return {key: os.path.normpath(path)} if isinstance(path, str) and path else {}


def _what_else(folder: Path) -> str:
    """Say what there is instead, where pictures lie in folders that may be classes."""
    classes = sorted({file.parent.name for file in walk(folder) if is_picture(file.name) and file.parent != folder})
    if len(classes) < 2:
        return ""
    names = ", ".join(classes[:3])
    return (
        f"; its pictures lie in {len(classes)} folders ({names}, ...): to take their names as captions, use "
        "--source hf with caption_key=label"
    )
