"""The few held-out examples that a run's pictures show: the same at every evaluation, so that pictures compare.

The trap: among these few a right answer ranks higher than among a whole split, so a picture says of how many it chose
and is no substitute for the retrieval metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from workbench.figures.embeddings import spread
from workbench.scoring.examples import Examples
from workbench.types import Context, Modality, Side, Split, Views

ROOM = 300
"""items of a side, at most"""


@dataclass(frozen=True)
class Gallery:
    """Up to `ROOM` examples of every side of an objective that a split can show, with a label each.

    The first side of images (where there is none, the first side) spreads over the split; every other side shows the
    first example of each of its ids.
    """

    examples: dict[Side, Examples]
    labels: dict[Side, list[str]]
    kinds: dict[Side, str]
    """{side: the kind of its items, or fused}"""

    @staticmethod
    def of(context: Context, split_name: str) -> Gallery:
        """Choose from one split. Raises ValueError when there is no such split."""
        split = context.data.split(split_name)
        sides = [side for side in context.objective.all_sides if _can_show(split, side)]
        kinds: dict[Side, str] = {
            side: context.data.modalities[side.members[0]].kind if len(side.members) == 1 else "fused" for side in sides
        }
        examples = _choose({side: Examples.of(split, side) for side in sides}, kinds)
        texts = [side for side, kind in kinds.items() if kind == "text"]
        named = {id_: label for text in texts[:1] for id_, label in _by_id(examples[text]).items()}
        labels = {side: _labels(chosen, context.data.modalities, named) for side, chosen in examples.items()}
        return Gallery(examples, labels, kinds)

    def embed(self, context: Context) -> Views:
        """Embed every example by the model as it is now."""
        return {side: examples.embed(context) for side, examples in self.examples.items()}

    def pairs(self) -> list[tuple[Side, Side]]:
        """List the sides that share no modality, which a contrast may set against each other."""
        disjoint = [(a, b) for a, b in combinations(self.examples, 2) if not set(a.members) & set(b.members)]
        return [(b, a) if self.kinds[b] == "fused" and self.kinds[a] != "fused" else (a, b) for a, b in disjoint]

    def first(self, *kinds: str) -> Side | None:
        """Find the first side of the first of these kinds that there is."""
        return next((side for kind in kinds for side, known in self.kinds.items() if known == kind), None)

    def matches(self, query: Side, candidates: Side, room: int) -> tuple[list[int], list[int]]:
        """Find rows of the two sides with equal ids, one of each id: the diagonal of a heat map.

        Candidates that are codes are sorted by code, so that equal ones make a block.
        """
        rows, partners = _first_rows(self.examples[query]), _first_rows(self.examples[candidates])
        ids = spread([i for i in rows if i in partners], room)
        if self.kinds[candidates] == "vector":
            ids.sort(key=lambda i: self.labels[candidates][partners[i]])
        return [rows[i] for i in ids], [partners[i] for i in ids]


def _can_show(split: Split, side: Side) -> bool:
    return set(side.members) <= set(split.items) and (len(side.members) == 1 or split.paired)


def _choose(examples: dict[Side, Examples], kinds: dict[Side, str]) -> dict[Side, Examples]:
    """Spread the examples of the lead side over the split, and take those of the other sides that belong to them."""
    if not examples:
        return {}
    lead = next((side for side, kind in kinds.items() if kind == "image"), next(iter(kinds)))
    everywhere = set.intersection(*(set(shown.ids.tolist()) for shown in examples.values()))
    rows = {lead: spread([i for i, id_ in enumerate(examples[lead].ids.tolist()) if id_ in everywhere], ROOM)}
    chosen = set(examples[lead].ids[rows[lead]].tolist())
    for side in examples.keys() - {lead}:
        rows[side] = [row for id_, row in _first_rows(examples[side]).items() if id_ in chosen]
    return {side: known.take(torch.tensor(rows[side], dtype=torch.int64)) for side, known in examples.items()}


def _first_rows(examples: Examples) -> dict[int, int]:
    """Find the first row of every id."""
    rows: dict[int, int] = {}
    for row, id_ in enumerate(examples.ids.tolist()):
        rows.setdefault(id_, row)
    return rows


def _by_id(texts: Examples) -> dict[int, str]:
    (raw,) = texts.raw.values()
    return {id_: str(raw[row]) for id_, row in _first_rows(texts).items()}


def _labels(examples: Examples, modalities: Mapping[str, Modality], named: dict[int, str]) -> list[str]:
    columns = [
        [_label(modalities[m], raw, row, named.get(id_, f"#{id_}")) for row, id_ in enumerate(examples.ids.tolist())]
        for m, raw in examples.raw.items()
    ]
    return [" + ".join(labels) for labels in zip(*columns, strict=True)]


def _label(modality: Modality, raw: Sequence[Any], row: int, name: str) -> str:
    """Describe an item by its text, by the bits of its code, else by the name of its id, without decoding a picture."""
    if modality.kind == "text":
        return str(raw[row])
    if modality.kind == "vector":
        values = torch.as_tensor(raw[row]).flatten().tolist()
        if set(values) <= {0.0, 1.0} and len(values) <= 16:
            return "".join(f"{x:.0f}" for x in values)
    return name
