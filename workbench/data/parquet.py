"""Parquet files: a row a sample, in columns of files (bytes, Hugging Face's Image or Audio, or paths), texts, numbers.

A row of a parquet file cannot be read without its whole row group, so the columns are first copied into Arrow files
in the cache of `datasets` (HF_DATASETS_CACHE), which costs their size on the disk, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.loading.chosen_rows import Choice, ChosenRows, where_columns
from workbench.loading.fields import Keys
from workbench.loading.paths import Paths, describe, expand, missing, mixed
from workbench.loading.provenance import Provenance, read_provenance, refuse_mixture, refuse_other
from workbench.loading.samples_in_arrow import ArrowSamples, Columns, load
from workbench.loading.samples_in_lists import guess_keys, require_columns
from workbench.loading.table import Table

if TYPE_CHECKING:
    import datasets

__all__ = ["Parquet"]


class Parquet(ChosenRows):
    """Samples, a row each; `from` names a column, or a dotted key in one of blocks. A text cell may be a list of them.

    Args:
        path: the training files: a glob, braces, or a list of them.
        root: folder that relative paths start from; null: the folder of each file.
        embedded_by: what `wb embed` printed of the encoders; files of other ones are refused.
        embedded_from: what it printed of the data; training files of other data are refused.
    """

    usual: ClassVar[Mapping[str, Keys]] = {"image": "image", "text": "caption"}

    def __init__(
        self,
        *,
        path: Paths,
        root: Path | None = None,
        embedded_by: str | None = None,
        embedded_from: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(path=path, **more)
        self.root, self.embedded_by, self.embedded_from = root, embedded_by, embedded_from

    def absent(self, source: Choice) -> str | None:
        keys = " and ".join(dict.fromkeys(key for field in self.declared.values() for key in field.keys))
        return missing(source.paths, "parquet file", f"(columns {keys})", self.key_of(source), "/where/*.parquet")

    def table(self, source: Choice) -> Table:
        if complaint := self.absent(source):
            raise ValueError(complaint)
        files, _ = expand(source.paths)
        columns = Columns({**self.columns, **where_columns(source.where)}, self.declared, describe(source.paths))
        schemas: dict[str, pa.Schema] = {}
        made: dict[str, Provenance | None] = {}
        begins: list[tuple[int, Path]] = []
        rows = 0
        for file in files:
            try:
                about = pq.read_metadata(file)
                schemas[file] = about.schema.to_arrow_schema()
                made[file] = read_provenance(about.metadata, file)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file} is no readable parquet file: {error}; remove it or fetch it again") from None
            names = schemas[file].names
            require_columns(columns.top(names), names, _about(file, names), guess_keys(names))
            begins.append((rows, self.root or Path(file).parent))
            rows += about.num_rows
        self._refuse_others(made, source.paths == self.path.paths)
        if not rows:
            raise ValueError(f"there is no row in {describe(source.paths)}: point data.path to files that have some")
        wanted = columns.top(next(iter(schemas.values())).names)
        features = common_features(schemas, wanted)
        named = [escape(file) for file in files]  # `datasets` would take brackets for a pattern
        data = load("parquet", data_files=named, split="train", columns=wanted, features=features)
        found = ArrowSamples(data, columns, begins, len(files))
        found.mixed = mixed(source.paths)
        chosen = found.chosen(source.where)
        if not len(chosen):
            raise ValueError(f"{describe(source.paths)} has no row where {source.where}")
        return chosen

    def _refuse_others(self, made: Mapping[str, Provenance | None], training: bool) -> None:
        """Raise ValueError for embeddings of other encoders or data than the recipe says, or than another split has."""
        for file, found in made.items():
            refuse_other(file, found, self.embedded_by, self.embedded_from if training else None)
        firsts = [expand(source.paths)[0][:1] for source in (self.path, *self.held_out.values())]
        others = {file for first in firsts for file in first if file not in made and Path(file).is_file()}
        # said before the first step, not when a split is first evaluated
        refuse_mixture({**made, **{file: _made(file) for file in sorted(others)}})


def _made(file: str) -> Provenance | None:
    try:
        return read_provenance(pq.read_metadata(file).metadata, file)
    except (pa.ArrowException, OSError):  # told where it is listed
        return None


def common_features(schemas: Mapping[str, pa.Schema], columns: Sequence[str]) -> datasets.Features | None:
    """Find the types that all files agree on, or None where they are those of the first file.

    A column that holds nothing agrees with any other.

    `datasets` takes those of the first file, and fails at the next with neither its name nor the column's.

    Raises ValueError naming file, column and both types.
    """
    import datasets  # it takes a second, which `wb check` does not pay

    chosen: dict[str, str] = {}
    for column in columns:
        for file, schema in schemas.items():
            now = schema.field(column).type
            first = chosen.setdefault(column, file)
            before = schemas[first].field(column).type
            if pa.types.is_null(before):
                chosen[column] = file
            elif not pa.types.is_null(now) and _kind(now) != _kind(before):
                raise ValueError(
                    f"column '{column}' is {now} in {file}, and {before} in {first}: write all files with one type, or "
                    "name only those that agree in data.path"
                )
    if {*chosen.values()} == {next(iter(schemas))}:
        return None
    features = {column: datasets.Features.from_arrow_schema(schemas[chosen[column]])[column] for column in columns}
    return datasets.Features(features)


def _kind(type_: pa.DataType) -> str:
    """Spell a type without what Arrow casts by itself: the width of offsets, dictionaries."""
    if pa.types.is_dictionary(type_):
        return _kind(type_.value_type)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_list_view(type_):
        return f"list<{_kind(type_.value_type)}>"
    return str(type_).removeprefix("large_").removesuffix("_view")


def _about(file: str, columns: Sequence[str]) -> str:
    """Name a file, and what img2dataset's logs are, which lie beside its pictures."""
    log = {"url", "key", "status"} <= {*columns}
    return f"{file} is img2dataset's log of what it fetched, not the pictures: it" if log else file
