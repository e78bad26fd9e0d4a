"""`wb embed`: what frozen towers say of every row of a split, computed once and kept in a file.

The rows stand in the order of their source, bad ones as empty rows: a training on the file then draws the same samples
as one with the towers, and the same ones stand in for bad samples.

The trap: a matrix product may round a row otherwise in a smaller batch, so every batch is filled up to one size; and
attention has another kernel for evaluations, which rounds otherwise, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench.distributed.processes import device
from workbench.errors import BadSample, failure, shorten
from workbench.loading.bad_samples import refuse_too_many
from workbench.loading.batching import prepare
from workbench.loading.captions import decode_text
from workbench.loading.cells import first_filled
from workbench.loading.feed import MapStyle
from workbench.loading.labels import Label, read_words
from workbench.loading.samples import Samples
from workbench.loading.streamed_samples import StreamedSamples
from workbench.loading.table import ID, Table, read_sample
from workbench.runs.embedding_file import EmbeddingFile, Row
from workbench.runs.fingerprint import fingerprint
from workbench.runs.folder import package_version
from workbench.runs.towers import Towers
from workbench.seeds import seed_for
from workbench.types import Data, Encoder, Sample, Skipped

CARRIED = ("text", "vector", "sequence")
"""kinds whose items are written as they are, where no tower reads them; pictures and sounds would fill the disk"""
PACKAGES = ("multimodal-workbench", "torch", "open_clip_torch", "timm", "transformers")
CHUNK = 1024
"""rows, about, that are lost when it is killed"""


class Report(NamedTuple):
    """What a file of embeddings holds, and who made it."""

    rows: int
    resumed: int
    """rows that were there from before"""
    fields: Mapping[str, Mapping[str, object]]
    """{field: its kind, and how many rows have it}"""
    left_out: list[str]
    """fields that are not in the file: pictures and sounds that no tower reads"""
    several: Mapping[str, int]
    """{field: rows of which only the first of several items was embedded}"""
    bad: list[Skipped]
    embedded_by: str
    embedded_from: str | None


@dataclass(frozen=True)
class Reading:
    """The rows of a split, one by one."""

    data: Data
    split: str
    table: Table | None
    """None of a data set that is no table: then its training samples are read"""
    _last: dict[int, Sample] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.data if self.table is None else self.table)

    def id(self, index: int) -> object:
        """Give the id as the source has it, by default the number of the row.

        Raises OSError and ValueError where it cannot be read, BadSample where only its sample has it.
        """
        if self.table is None:
            return self._sample(index).id
        if not self.named:
            return index
        cell = first_filled(self.table.cells(index, ID))
        return None if cell is None else decode_text(cell) if isinstance(cell, bytes) else str(cell)

    def items(self, index: int) -> Mapping[str, list[object]]:
        """Read the raw items of all fields. Raises BadSample."""
        if self.table is None:
            return self._sample(index).inputs
        assert isinstance(self.data, Samples)
        return read_sample(self.table, index, self.data.fields)

    def _sample(self, index: int) -> Sample:
        if index not in self._last:
            self._last.clear()
            assert isinstance(self.data, MapStyle)
            self._last[index] = self.data.sample(index, np.random.default_rng(seed_for("embed", index)))
        return self._last[index]

    def name(self, index: int) -> str:
        """Say what a person finds the row by."""
        return f"row {index}" if self.table is None else self.table.name(index)

    def labels(self, index: int) -> dict[str, object]:
        """Give the labels as words, a list of them where there may be many, or as numbers."""
        if self.table is None:
            return {}
        try:
            return {f"label {k}": _label(v, read_words(self.table, index, k)) for k, v in self.labelled.items()}
        except ValueError as error:
            raise ValueError(f"a label of {self.name(index)} is no number: {error}") from None

    @property
    def labelled(self) -> Mapping[str, Label]:
        return self.data.labels if isinstance(self.data, Samples) else {}

    @property
    def named(self) -> bool:
        """Whether rows have ids of their own."""
        return isinstance(self.data, Samples) and self.data.id is not None


def _label(label: Label, words: list[str]) -> object:
    if label.many:
        return words
    if label.number:
        return float(words[0]) if words else None
    return words[0] if len(words) == 1 else None


def open_rows(data: Data, split: str) -> Reading:
    """Open a split for reading by position. Raises ValueError where the data cannot do that."""
    if isinstance(data, StreamedSamples) and data.streaming:
        raise ValueError("rows are read by their positions, which streaming has not: --set streaming=false")
    if isinstance(data, Samples):
        if complaint := data.missing() if split == "train" else data.missing_held_out():
            raise ValueError(complaint)
        return Reading(data, split, data.rows(split))
    if split != "train" or not isinstance(data, MapStyle):
        raise ValueError(f"only the training split of such data can be embedded, and this is '{split}': leave --split")
    return Reading(data, split, None)


def embed(
    rows: Reading,
    towers: Towers,
    out: Path,
    *,
    tokens: bool = False,
    batch: int | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Report:
    """Write what the towers say of every row of a split into a .parquet or .npz file; goes on where it was killed.

    Args:
        rows: those of a split.
        towers: the encoders, by field.
        out: the file; it appears when it is whole.
        tokens: take the sequence of tokens [l, d] in the place of the pooled vector.
        batch: items at once; by default as many as the towers were trained with.
        tell: is called with (rows that are done, all rows).

    Raises ValueError for what cannot be read, OSError for what cannot be written.
    """
    if tokens and (without := [name for name, encoder in towers.encoders.items() if not encoder.has_tokens]):
        raise ValueError(f"--tokens: the encoder of {', '.join(without)} has none: leave it, or choose with --field")
    data, batch = rows.data, batch or towers.batch
    what = "tokens" if tokens else "pooled"
    kinds = {name: modality.kind for name, modality in data.modalities.items()}
    made: dict[str, str] = dict.fromkeys(towers.encoders, "sequence" if tokens else "vector")
    made |= {name: kind for name, kind in kinds.items() if name not in made and kind in CARRIED}
    origin = fingerprint(data)
    by, of = towers.digest(what), f"d{origin[:15]}" if origin else None
    facts: dict[str, object] = {
        "embedded_by": by,
        "embedded_from": of,
        "what": what,
        "split": rows.split,
        "rows": len(rows),
        "batch": batch,
        "fields": made,
        "id": data.id if isinstance(data, Samples) else None,
        "labels": {name: label.model_dump(mode="json") for name, label in rows.labelled.items()},
        "with": towers.said,
        "step": towers.step,
        "encoders": towers.settings,
        "versions": {name: package_version(name) for name in PACKAGES},
    }
    file = EmbeddingFile(out, facts, made, rows.labelled, rows.named)
    found, resumed = file.whole(), len(rows)
    if found is None:
        with file:
            resumed = _write(file, _Work(rows, towers, made, tokens, batch), tell)
            found = file.summary()
            if isinstance(data, Samples):
                refuse_too_many(found.bad, len(rows), data.max_bad)
            file.finish()
    fields = {name: {"kind": kind, "rows": found.filled[name]} for name, kind in made.items()}
    left_out = [name for name in kinds if name not in made]
    return Report(len(rows), resumed, fields, left_out, found.several, found.bad, by, of)


def _write(file: EmbeddingFile, work: _Work, tell: Callable[[int, int], None]) -> int:
    """Write the chunks that are not there yet; returns how many rows were."""
    size, rows, resumed = work.batch * max(1, CHUNK // work.batch), len(work.rows), 0
    for begin in range(0, rows, size):
        end = min(begin + size, rows)
        if file.has(begin):
            resumed += end - begin
        else:
            file.write(begin, *work.chunk(range(begin, end)))
        tell(end, rows)
    return resumed


@dataclass(frozen=True)
class _Work:
    """Reads rows and encodes them."""

    rows: Reading
    towers: Towers
    made: Mapping[str, str]
    tokens: bool
    batch: int

    def chunk(self, places: range) -> tuple[list[Row], list[Skipped], dict[str, int]]:
        """Give the rows of some places, the bad ones among them, and how many had several items of a field."""
        found: list[Row] = []
        bad: list[Skipped] = []
        several: dict[str, int] = {}
        inputs: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in self.towers.encoders}
        transforms = self.towers.transforms()
        for at, index in enumerate(places):
            row: Row = {"id": None if self.rows.named else index, **self.rows.labels(index)}
            found.append(row)
            try:
                row["id"] = self.rows.id(index)
                items = self.rows.items(index)
                firsts = Sample({name: list(items.get(name, ()))[:1] for name in inputs}, index)
                ready = prepare(self.rows.name(index), firsts, self.rows.data.modalities, transforms, (0, 0, index))
            except BadSample as error:
                bad.append(Skipped(str(error.name), str(error.reason)))
                continue
            except (OSError, ValueError) as error:  # of its id, say
                bad.append(Skipped(self.rows.name(index), shorten(str(error))))
                continue
            except Exception as error:  # whatever a data set or a transform of one's own may raise
                raise failure(self.rows.name(index), error, "") from None
            for name, kind in self.made.items():
                if name in inputs:
                    inputs[name] += [(at, x) for x in ready.get(name, [])]
                    several[name] = several.get(name, 0) + (len(items.get(name, ())) > 1)
                else:
                    row[name] = _carried(items.get(name, []), kind)
        for name, encoder in self.towers.encoders.items():
            for place, value in self._encode(name, encoder, inputs[name]):
                found[place][name] = value
        return found, bad, several

    def _encode(
        self, name: str, encoder: Encoder, inputs: list[tuple[int, Tensor]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the place of each input, and its vector [d] or its tokens [l, d], those that are real."""
        on = device()
        encoder.to(on)
        for begin in range(0, len(inputs), self.batch):
            group = inputs[begin : begin + self.batch]
            x = torch.stack([x for _, x in group])
            filler = x[-1:].expand(self.batch - len(x), *x.shape[1:])
            with torch.inference_mode(), _as_in_training():
                features = encoder(torch.cat([x, filler]).to(on), **({"tokens": True} if self.tokens else {}))
            given = features.tokens if self.tokens else features.pooled
            assert given is not None
            given = given.float().cpu()
            mask = features.mask.cpu() if self.tokens and features.mask is not None else None
            for row, (place, _) in enumerate(group):
                value = given[row] if mask is None else given[row][mask[row]]
                if not value.isfinite().all():
                    raise ValueError(f"the embedding of '{name}' is no number: the weights overflow or hold NaN")
                yield place, value.numpy()


@contextmanager
def _as_in_training() -> Iterator[None]:
    """Have torch's attention take the kernel that a training takes, whether its module is in eval mode or not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _carried(items: list[object], kind: str) -> object:
    """Give a row's items of a field that no tower reads: all its texts, or its one array."""
    if kind == "text":
        return list(items)
    return torch.as_tensor(items[0]).numpy() if items else None
