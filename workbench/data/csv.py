"""CSV and TSV files: a picture's path and its caption in each row, under the column names that open_clip uses.

Rows with the same picture are one sample with several captions. A row with too many or too few fields is left out and
counted.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv

from workbench.loading.pairs import Keys, Pairs
from workbench.loading.pairs_in_lists import ListedPairs, require_columns
from workbench.loading.paths import Paths, as_tuple, expand, missing
from workbench.types import Skipped

__all__ = ["CSV"]


class CSV(Pairs[Paths]):
    """Image-text pairs listed in CSV files with a header.

    Args:
        path: the training lists: a file, a glob, braces, or a list of them.
        validation: held-out lists for evaluation, likewise.
        root: folder that relative image paths start from; null: the folder of the first list.
        sep: what separates fields; null: a tab where the header has one, else a comma.
        img_key: the column of image paths.
        caption_key: the column of captions, or a list of columns.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        root: Path | None = None,
        sep: str | None = None,
        img_key: str = "filepath",
        caption_key: Keys = "title",
        **more: Any,
    ) -> None:
        super().__init__(path, validation, **more)
        self.root, self.sep, self.img_key, self.caption_keys = root, sep, img_key, as_tuple(caption_key)

    def missing(self) -> str | None:
        """One line on what to point where, when lists are not there."""
        return _missing(self.path)

    def table(self, source: Paths) -> ListedPairs:
        if complaint := _missing(source):
            raise ValueError(complaint)
        files, _ = expand(source)
        left_out: list[Skipped] = []
        rows = pa.concat_tables([self._read(file, left_out) for file in files])
        if not len(rows):
            raise ValueError(f"{files[0]} has a header, and no row below it")
        captions = [rows[key] for key in self.caption_keys]
        return ListedPairs(self.root or Path(files[0]).parent, rows[self.img_key], captions, left_out)

    def _read(self, file: str, left_out: list[Skipped]) -> pa.Table:
        """Its columns of paths and captions, as text whatever they look like."""
        wanted = [self.img_key, *self.caption_keys]
        sep, header = _header(file, self.sep)
        require_columns(wanted, header, f"{file} (fields separated by {sep!r})")

        def leave_out(row: arrow_csv.InvalidRow) -> str:
            reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
            left_out.append(Skipped(f"{file}: row {row.number}", reason))
            return "skip"

        try:
            return arrow_csv.read_csv(
                file,
                arrow_csv.ReadOptions(use_threads=False),  # only then a bad row knows its number
                arrow_csv.ParseOptions(delimiter=sep, newlines_in_values=True, invalid_row_handler=leave_out),
                arrow_csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.large_string()),
                    check_utf8=False,  # a caption that is not UTF-8 is a bad sample, not a bad file
                ),
            )
        except pa.ArrowException as error:
            raise ValueError(f"{file} cannot be read: {error}; is data.sep={sep!r} right?") from None


def _header(file: str, sep: str | None) -> tuple[str, list[str]]:
    """(the separator, the names of the columns)."""
    with Path(file).open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        line = lines.readline()
    sep = sep or ("\t" if "\t" in line else ",")
    return sep, next(csv.reader([line], delimiter=sep), [])


def _missing(source: Paths) -> str | None:
    return missing(source, "CSV file", "(columns filepath and title) with --set data.path=/where/train.csv")
