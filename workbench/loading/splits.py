"""Evaluation splits of a table: every row is decoded once, and what is usable becomes lists of items that ids link.

The trap: rows may share an id, and are right answers of each other then. An item still belongs to one row: a query that
is fused of several fields takes those of its own row, as a training does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int64

from workbench.errors import BadSample
from workbench.loading.fields import Fields, TextField
from workbench.loading.labels import LabelReader
from workbench.loading.table import RawItems, Table, read_sample
from workbench.types import Items, Skipped, Split


@dataclass
class Decoded:
    """The rows of a table that can be used."""

    usable: list[int] = field(default_factory=list)
    bad: list[Skipped] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=dict)
    """{field: usable rows that have it}"""
    texts: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """{field of texts: all texts there are, each with its row}"""


def decode_all(table: Table, fields: Fields) -> Decoded:
    """Decode every row; only texts are kept."""
    decoded = Decoded(rows={name: [] for name in fields})
    for index in range(len(table)):
        try:
            found = read_sample(table, index, fields)
        except BadSample as error:
            decoded.bad.append(Skipped(error.name, error.reason))
            continue
        for name, items in found.items():
            decoded.rows[name] += [index] if items else []
            if isinstance(fields[name], TextField):
                decoded.texts.setdefault(name, []).extend((text, index) for text in items)
        decoded.usable.append(index)
    return decoded


def link(
    table: Table,
    decoded: Decoded,
    fields: Fields,
    ids: Int64[np.ndarray, " n"] | None,
    labels: Mapping[str, LabelReader],
) -> Split:
    """Make the items of a split: of texts all there are, of other fields one of each row that has it.

    `ids` are those of the usable rows, None where each row is one of its own.
    """
    place = {row: at for at, row in enumerate(decoded.usable)}
    targets = {name: reader.read(table, decoded.usable) for name, reader in labels.items()}
    items = {}
    for name, each in fields.items():
        texts = decoded.texts.get(name)
        rows = decoded.rows[name] if texts is None else [row for _, row in texts]
        raw = RawItems(table, name, each, rows) if texts is None else [text for text, _ in texts]
        at = torch.tensor([place[row] for row in rows], dtype=torch.int64)
        of_rows = at if ids is None else torch.from_numpy(ids)[at]
        labelled = {label: values[at] for label, values in targets.items()}
        items[name] = Items(raw, of_rows, labelled, None if ids is None else at)
    classes = {name: reader.classes for name, reader in labels.items() if reader.classes}
    return Split({name: found for name, found in items.items() if len(found)}, classes)
