"""JSON lists: COCO's captions, Karpathy's splits of COCO and Flickr30k, lists of rows, JSON Lines.

A row is {"image": "a.jpg", "caption": ["a bird", "a robin"]}, under any of the usual keys, or whatever `fields` name.
Rows with the same picture are one sample with several captions, where a picture and texts are all that they have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from workbench.errors import did_you_mean
from workbench.loading.cells import lookup
from workbench.loading.chosen_rows import Where, chosen
from workbench.loading.fields import Keys
from workbench.loading.json_lists import CAPTIONS, IMAGES, Row, find_keys, listed, read_rows
from workbench.loading.lists import ListSamples
from workbench.loading.samples_in_lists import Listed, mixed_rows, split_column
from workbench.types import Skipped

__all__ = ["JSON"]


class JSON(ListSamples):
    """Samples listed in JSON files; `from` names a key, or a dotted one: film.plot.

    Without it, pictures and texts are looked for under the usual keys (file_name, image, ...; text, caption, ...).
    """

    kind = "JSON file"
    holds = "(COCO's, Karpathy's, or a list of rows)"
    example = "/where/captions.json"
    usual: ClassVar[Mapping[str, Keys]] = {"image": (), "text": ()}
    written = True

    def read(self, file: str, where: Where | None) -> Listed:
        rows: list[Row] = []
        left_out: list[Skipped] = []
        for row in read_rows(file):
            (rows if isinstance(row, Row) else left_out).append(row)  # type: ignore[arg-type]
        fields: dict[str, object] = {key: value for row in rows for key, value in row.fields.items()}
        for column in where or {}:
            if column not in fields:
                raise ValueError(f"{file} has no key '{column}'{did_you_mean(column, fields)}")
        told = split_column(list(fields))
        mixed = None
        if told and told not in (where or {}):
            mixed = mixed_rows(file, told, Counter(str(row.fields.get(told)) for row in rows))
        wanted = [row for row in rows if chosen(row.fields, where)] if where else rows
        columns = self._keys(fields, rows, file)
        beside = {f"rows other than {where}": len(rows) - len(wanted)} if where else {}
        found = listed(self.root or Path(file).parent, wanted, columns, self, left_out)
        found.beside, found.mixed = beside, mixed
        return found

    def _keys(self, fields: dict[str, object], rows: list[Row], file: str) -> dict[str, tuple[str, ...]]:
        """Find the keys of each column. Raises ValueError naming the keys there are."""
        columns = dict(self.columns)
        for name, usual in (("image", IMAGES), ("text", CAPTIONS)):
            if name in self.declared and not columns[name]:
                what = "pictures" if name == "image" else "captions"
                columns[name] = (find_keys(fields, usual, what, file),) if rows else ("",)
        for keys in columns.values() if rows else ():
            for key in keys:
                if not any(lookup(row.fields, key) is not None for row in rows) and key not in fields:
                    raise ValueError(f"{file} has no key '{key}'{did_you_mean(key, fields)}")
        return columns
