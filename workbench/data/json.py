"""JSON lists of pictures: COCO's captions, Karpathy's splits of COCO and Flickr30k, lists of rows, JSON Lines.

A row is {"image": "a.jpg", "caption": ["a bird", "a robin"]}, under any of the usual keys. Rows with the same picture
are one sample with several captions.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from workbench.errors import did_you_mean
from workbench.loading.json_lists import CAPTIONS, IMAGES, Row, find_keys, listed, read_rows
from workbench.loading.lists import ListPairs, Where, chosen
from workbench.loading.pairs import Keys
from workbench.loading.pairs_in_lists import Listed, mixed_rows, split_column
from workbench.loading.paths import Paths, as_tuple
from workbench.types import Skipped

__all__ = ["JSON"]


class JSON(ListPairs):
    """Image-text pairs listed in JSON files.

    Args:
        path: the training lists: a file, a glob, braces, or a list of them.
        validation: held-out lists for evaluation, likewise; null: those of `path`, where `validation_where` is given.
        root: folder that relative image paths start from; null: the folder of each list.
        image_key: the key of a picture's path; null: the usual one that is there (file_name, image, ...).
        caption_key: the key of a caption or of a list of them, or a list of keys; null: the usual one.
    """

    kind = "JSON file"
    columns = "(COCO's, Karpathy's, or a list of rows)"
    example = "/where/captions.json"

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        root: Path | None = None,
        image_key: str | None = None,
        caption_key: Keys | None = None,
        **more: Any,
    ) -> None:
        super().__init__(path=path, validation=validation, root=root, **more)
        self.image_key, self.caption_keys = image_key, as_tuple(caption_key or ())

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
        image = self.image_key or (find_keys(fields, IMAGES, "pictures", file) if rows else "")
        captions = self.caption_keys or ((find_keys(fields, CAPTIONS, "captions", file),) if rows else ())
        beside = {f"rows other than {where}": len(rows) - len(wanted)} if where else {}
        found = listed(self.root or Path(file).parent, wanted, image, captions, left_out)
        found.beside, found.mixed = beside, mixed
        return found
