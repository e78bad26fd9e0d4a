"""Which sides of the objective ever meet: samples have gaps, and a term between what no sample has together learns
nothing, without a word.

The trap: this counts cells that are filled, and reads none. What is filled and cannot be decoded is a bad sample, found
when it comes up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from workbench.loading.samples import Samples
from workbench.loading.streamed_samples import StreamedSamples
from workbench.loading.table import ENOUGH
from workbench.terms import Terms
from workbench.types import Data, Objective, Side

SHOWN = 6
"""combinations that a message lists"""

Filled = Mapping[str, Bool[ndarray, " n"]]
"""{field: the training samples that have it}"""


def refuse_terms_apart(objective: Objective, data: Data) -> None:
    """Raise ValueError for the first term whose two sides no training sample has together, with the counts.

    Data that are streamed, or of another kind, are not looked at.
    """
    if not isinstance(data, Samples) or (isinstance(data, StreamedSamples) and data.streaming):
        return
    if len(data.fields) == ENOUGH:  # without both of them a sample is bad
        return
    filled = {name: data.train.filled(name) for name in data.fields}
    usable = np.sum(list(filled.values()), axis=0) >= ENOUGH
    for name, field in data.fields.items():
        usable &= filled[name] | (not field.required)
    filled = {name: there & usable for name, there in filled.items()}
    ids = data.ids(data.train) if data.id else None
    for what, sides, by_id in _contrasts(objective):
        there = [_has(side, filled) for side in sides]
        if ids is not None and by_id:  # positives are all rows of an id, whichever of them has a side
            there = [np.isin(ids, ids[rows]) for rows in there]
        if not np.logical_and.reduce(there).any():
            raise ValueError(_say(what, sides, filled))


def _contrasts(objective: Objective) -> Iterator[tuple[str, tuple[Side, ...], bool]]:
    """Give (what a message calls it, sides that have to meet, whether rows of one id do) of every contrast."""
    if isinstance(objective, Terms):
        for name, term in objective.named.items():
            yield f"term {name}", term.sides, term.positives not in (None, "pairwise")
    else:  # what it contrasts with what, it knows itself
        for side in map(Side.parse, objective.all_sides):
            yield f"side {side}", (side,), False


def _has(side: Side, filled: Filled) -> Bool[ndarray, " n"]:
    return np.logical_and.reduce([filled[member] for member in side.members])


def _say(what: str, sides: tuple[Side, ...], filled: Filled) -> str:
    number = len(next(iter(filled.values())))
    members = dict.fromkeys(member for side in sides for member in side.members)
    each = ", ".join(f"{name} {int(filled[name].sum()):,}" for name in members)
    rows = zip(*filled.values(), strict=True)
    together = Counter("+".join(name for name, has in zip(filled, row, strict=True) if has) for row in rows)
    del together[""]
    shown = ", ".join(f"{there} {count:,}" for there, count in together.most_common(SHOWN))
    missed = " and ".join(members) + (" together" if len(members) > 1 else "")
    return (
        f"{what}: none of {number:,} training samples has {missed}, so it would learn nothing. There are {each}; "
        f"together {shown or 'nothing'}. Look with `wb data inspect` what data.fields reads, or drop "
        f"{'the term' if len(sides) > 1 else 'the modality'}"
    )
