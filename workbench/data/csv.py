"""CSV and TSV files: a row a sample, whose cells are texts, numbers, or paths of pictures, sounds and .npy files.

Without `fields` it is a picture's path and its caption, under the column names that open_clip uses. Rows with the same
picture are then one sample with several captions. A row that is none is left out and counted: one with too many or too
few cells, one that a quotation mark swallows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from workbench.loading.choosing import is_picture
from workbench.loading.chosen_rows import Where, texts
from workbench.loading.fields import Keys
from workbench.loading.lists import ListSamples
from workbench.loading.paths import Paths
from workbench.loading.samples_in_lists import Listed, guess_keys, mixed_rows, require_columns, split_column
from workbench.loading.separated import Paths as PathColumns
from workbench.loading.separated import read_columns, tell_dialect

__all__ = ["CSV"]


class CSV(ListSamples):
    """Samples listed in CSV files with a header; `from` names a column.

    Args:
        path: the training lists: a file, a glob, braces, or a list of them.
        sep: what separates cells; null: that of tab, comma, semicolon and bar with which the columns are there.
        quote: what a cell with a separator in it stands in; null: nothing does; auto: `"`, but nothing in a TSV.
    """

    kind = "CSV file"
    holds = "(columns filepath and title)"
    example = "/where/list.csv"
    usual: ClassVar[Mapping[str, Keys]] = {"image": "filepath", "text": "title"}

    def __init__(self, *, path: Paths, sep: str | None = None, quote: str | None = "auto", **more: Any) -> None:
        super().__init__(path=path, **more)
        if quote not in (None, "auto") and (len(quote) != 1 or quote in "\r\n"):
            raise ValueError(f"quote={quote!r}: one character, as '\"', or null for a file without quotation marks")
        self.sep, self.quote = sep, quote

    def read(self, file: str, where: Where | None) -> Listed:
        keys = {name: [key.strip() for key in keys] for name, keys in self.columns.items()}
        wanted = list(dict.fromkeys(key for each in keys.values() for key in each))
        dialect = tell_dialect(file, wanted, self.sep, self.quote)
        about = f"{file} (fields separated by {dialect.sep!r})"
        if not {*wanted} <= {*dialect.header} and any(map(is_picture, dialect.header)):
            raise ValueError(f"{about} has no header, but a row in its first line: write {','.join(wanted)} before it")
        require_columns([*wanted, *(where or {})], dialect.header, about, guess_keys(dialect.header))
        told = split_column(dialect.header)
        further = [name for name in {*(where or {}), *([told] if told else [])} if name not in wanted]
        lead = keys[self.lead][0] if self.lead else None
        paths = PathColumns([key for name in self.paths for key in keys[name]], lead)
        rows = read_columns(file, [*wanted, *further], paths, dialect, self.quote == "auto")
        table = pa.table(rows.columns)
        mixed = None
        if told and told not in (where or {}):
            counts = pc.value_counts(table[told]).to_pylist()  # type: ignore[attr-defined]
            mixed = mixed_rows(file, told, {count["values"]: count["counts"] for count in counts})
        every = len(table)
        for column, values in texts(where or {}).items():
            table = table.filter(pc.is_in(table[column], pa.array(values, pa.large_string())))  # type: ignore[attr-defined]
        columns = {name: [table[key] for key in each] for name, each in keys.items()}
        beside = {f"rows other than {where}": every - len(table)} if where else {}
        return Listed(self.root or Path(file).parent, columns, rows.left_out, beside, mixed)
