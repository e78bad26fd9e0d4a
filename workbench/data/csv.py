"""CSV and TSV files: a picture's path and its caption in each row, under the column names that open_clip uses.

Rows with the same picture are one sample with several captions. A row that is none is left out and counted: one with
too many or too few fields, one that a quotation mark swallows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from workbench.loading.choosing import is_picture
from workbench.loading.lists import ListPairs, Where, texts
from workbench.loading.pairs import Keys
from workbench.loading.pairs_in_lists import Listed, guess_keys, mixed_rows, require_columns, split_column
from workbench.loading.paths import Paths, as_tuple
from workbench.loading.separated import read_columns, tell_dialect

__all__ = ["CSV"]


class CSV(ListPairs):
    """Image-text pairs listed in CSV files with a header.

    Args:
        path: the training lists: a file, a glob, braces, or a list of them.
        validation: held-out lists for evaluation, likewise; null: those of `path`, where `validation_where` is given.
        root: folder that relative image paths start from; null: the folder of each list.
        sep: what separates fields; null: that of tab, comma, semicolon and bar with which the columns are there.
        quote: what a field with a separator in it stands in; null: nothing does; auto: `"`, but nothing in a TSV.
        img_key: the column of image paths.
        caption_key: the column of captions, or a list of columns.
    """

    kind = "CSV file"
    columns = "(columns filepath and title)"
    example = "/where/list.csv"

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        root: Path | None = None,
        sep: str | None = None,
        quote: str | None = "auto",
        img_key: str = "filepath",
        caption_key: Keys = "title",
        **more: Any,
    ) -> None:
        super().__init__(path=path, validation=validation, root=root, **more)
        if quote not in (None, "auto") and (len(quote) != 1 or quote in "\r\n"):
            raise ValueError(f"quote={quote!r}: one character, as '\"', or null for a file without quotation marks")
        self.sep, self.quote = sep, quote
        self.img_key, self.caption_keys = img_key.strip(), tuple(key.strip() for key in as_tuple(caption_key))

    def read(self, file: str, where: Where | None) -> Listed:
        wanted = [self.img_key, *self.caption_keys]
        dialect = tell_dialect(file, wanted, self.sep, self.quote)
        about = f"{file} (fields separated by {dialect.sep!r})"
        if not {*wanted} <= {*dialect.header} and any(map(is_picture, dialect.header)):
            raise ValueError(f"{about} has no header, but a row in its first line: write {','.join(wanted)} before it")
        require_columns([*wanted, *(where or {})], dialect.header, about, guess_keys(dialect.header, "img_key"))
        told = split_column(dialect.header)
        further = [name for name in {*(where or {}), *([told] if told else [])} if name not in wanted]
        rows = read_columns(file, [*dict.fromkeys(wanted), *further], self.img_key, dialect, self.quote == "auto")
        table = pa.table(rows.columns)
        mixed = None
        if told and told not in (where or {}):
            counts = pc.value_counts(table[told]).to_pylist()  # type: ignore[attr-defined]
            mixed = mixed_rows(file, told, {count["values"]: count["counts"] for count in counts})
        every = len(table)
        for column, values in texts(where or {}).items():
            table = table.filter(pc.is_in(table[column], pa.array(values, pa.large_string())))  # type: ignore[attr-defined]
        captions = [table[key] for key in self.caption_keys]
        beside = {f"rows other than {where}": every - len(table)} if where else {}
        return Listed(self.root or Path(file).parent, table[self.img_key], captions, rows.left_out, beside, mixed)
