"""Parquet files: a column of pictures (bytes, Hugging Face's Image, or paths) and one or more of captions.

A row of a parquet file cannot be read without its whole row group, so the two columns are first copied into Arrow files
in the cache of `datasets` (HF_DATASETS_CACHE), which costs their size on the disk, once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.loading.pairs import Keys, Pairs
from workbench.loading.pairs_in_arrow import ArrowPairs, load
from workbench.loading.pairs_in_lists import require_columns
from workbench.loading.paths import Paths, as_tuple, describe, expand, missing

__all__ = ["Parquet"]


class Parquet(Pairs[Paths]):
    """Image-text pairs, a row each.

    Args:
        path: the training files: a glob, braces, or a list of them.
        validation: held-out files for evaluation, likewise.
        root: folder that relative image paths start from; null: the folder of the first file.
        image_key: the column of pictures.
        caption_key: the column of captions (a text or a list of them in each row), or a list of columns.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        root: Path | None = None,
        image_key: str = "image",
        caption_key: Keys = "caption",
        **more: Any,
    ) -> None:
        super().__init__(path, validation, **more)
        self.root, self.image_key, self.caption_keys = root, image_key, as_tuple(caption_key)

    def missing(self) -> str | None:
        """One line on what to point where, when files are not there."""
        return _missing(self.path)

    def table(self, source: Paths) -> ArrowPairs:
        if complaint := _missing(source):
            raise ValueError(complaint)
        files, _ = expand(source)
        columns = [self.image_key, *self.caption_keys]
        rows = 0
        for file in files:
            try:
                about = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file} is no readable parquet file: {error}; remove it or fetch it again") from None
            require_columns(columns, about.schema.to_arrow_schema().names, file)
            rows += about.num_rows
        if not rows:
            raise ValueError(f"there is no row in {describe(source)}: point data.path to files that have some")
        data = load("parquet", data_files=files, split="train", columns=columns)
        return ArrowPairs(data, self.image_key, self.caption_keys, describe(source), self.root or Path(files[0]).parent)


def _missing(source: Paths) -> str | None:
    return missing(source, "parquet file", "(columns image and caption) with --set data.path='/where/*.parquet'")
