"""`wb embed`: what frozen towers say of every row of a split, computed once and kept in a file.

The rows stand in the order of their source, bad ones as empty rows: a training on the file then draws the same samples
as one with the towers, and the same ones stand in for bad samples.

The trap: a matrix product may round a row otherwise in a smaller batch, so every batch is filled up to one size; and
attention has another kernel for evaluations, which rounds otherwise, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from workbench.distributed.processes import device
from workbench.errors import BadSample, failure, shorten
from workbench.loading.bad_samples import refuse_too_many
from workbench.loading.batching import prepare
from workbench.loading.samples import Samples
from workbench.runs.embedding_file import EmbeddingFile, Row
from workbench.runs.embedding_rows import Reading
from workbench.runs.fingerprint import fingerprint
from workbench.runs.folder import package_version
from workbench.runs.towers import SHARED, Towers
from workbench.starting import collect_as_usual
from workbench.types import Encoder, Features, Sample, Skipped

CARRIED = ("text", "vector", "sequence")
"""kinds whose items are written as they are, where no tower reads them; pictures and sounds would fill the disk"""
PACKAGES = ("multimodal-workbench", "torch", "open_clip_torch", "timm", "transformers")
What = Literal["pooled", "tokens", "shared"]
"""what is taken of an encoder"""
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


def embed(
    rows: Reading,
    towers: Towers,
    out: Path,
    *,
    what: What = "pooled",
    batch: int | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Report:
    """Write what the towers say of every row of a split into a .parquet or .npz file; goes on where it was killed.

    Args:
        rows: those of a split.
        towers: the encoders, by field.
        out: the file; it appears when it is whole.
        what: the pooled vector, the sequence of tokens [l, d], or the unit vector in the shared space.
        batch: items at once; by default as many as the towers were trained with.
        tell: is called with (rows that are done, all rows).

    Raises ValueError for what cannot be read, OSError for what cannot be written.
    """
    _refuse_what_towers_lack(towers, what)
    data, batch = rows.data, batch or towers.batch
    kinds = {name: modality.kind for name, modality in data.modalities.items()}
    made: dict[str, str] = dict.fromkeys(towers.encoders, "sequence" if what == "tokens" else "vector")
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
            resumed = _write(file, _Work(rows, towers, made, what, batch), tell)
            found = file.summary()
            if isinstance(data, Samples):
                refuse_too_many(found.bad, len(rows), data.max_bad)
            file.finish()
    fields = {name: {"kind": kind, "rows": found.filled[name]} for name, kind in made.items()}
    left_out = [name for name in kinds if name not in made]
    return Report(len(rows), resumed, fields, left_out, found.several, found.bad, by, of)


def _write(file: EmbeddingFile, work: _Work, tell: Callable[[int, int], None]) -> int:
    """Write the chunks that are not there yet; returns how many rows were."""
    collect_as_usual()
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
    what: What
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
        on, tokens = device(), self.what == "tokens"
        encoder.to(on)
        for begin in range(0, len(inputs), self.batch):
            group = inputs[begin : begin + self.batch]
            x = torch.stack([x for _, x in group])
            filler = x[-1:].expand(self.batch - len(x), *x.shape[1:])
            with torch.inference_mode(), _as_in_training():
                features = encoder(torch.cat([x, filler]).to(on), **({"tokens": True} if tokens else {}))
                given = self._take(name, features)
            mask = features.mask.cpu() if tokens and features.mask is not None else None
            for row, (place, _) in enumerate(group):
                value = given[row] if mask is None else given[row][mask[row]]
                if not value.isfinite().all():
                    raise ValueError(f"the embedding of '{name}' is no number: the weights overflow or hold NaN")
                yield place, value.numpy()

    def _take(self, name: str, features: Features) -> Tensor:
        """Take of the features what is asked for, as float32 on the CPU."""
        if self.what != SHARED:
            given = features.tokens if self.what == "tokens" else features.pooled
        else:
            head = self.towers.heads.get(name)
            z = features.z if head is None else head.to(features.pooled.device)(features.pooled)
            given = normalize(z.float(), dim=-1)
        assert given is not None
        return given.float().cpu()


def _refuse_what_towers_lack(towers: Towers, what: What) -> None:
    """Raise ValueError where an encoder has no tokens, or does not end in a shared space."""
    for name, encoder in towers.encoders.items():
        if what == "tokens" and not encoder.has_tokens:
            raise ValueError(f"--tokens: the encoder of {name} has none: leave it, or choose with --field")
        if what == SHARED and not encoder.has_projection and name not in towers.heads:
            raise ValueError(f"--shared: the encoder of {name} ends in no shared space: name a run, which has a head")


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
