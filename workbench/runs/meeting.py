"""Which sides of the objective ever meet: samples have gaps, and a term between what no sample has together learns
nothing, without a word.

The trap: this counts cells that are filled, and reads none. What is filled and cannot be decoded is a bad sample, found
when it comes up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from workbench.loading.cells import is_empty
from workbench.loading.samples import Samples
from workbench.loading.shares import identify
from workbench.loading.streamed_samples import StreamedSamples
from workbench.loading.table import ENOUGH, ID, Raw
from workbench.terms import Terms
from workbench.types import Data, Objective, Side

SHOWN = 6
"""combinations that a message lists"""
FIRST = 1000
"""samples of the first part of a stream that are looked at: a whole tar takes minutes"""


@dataclass(frozen=True)
class Looked:
    """What training samples have, of those that were looked at."""

    filled: Mapping[str, Bool[ndarray, " n"]]
    """{field: which of them have it}"""
    ids: Int64[ndarray, " n"] | None
    """their ids, where these are of the data's own"""
    which: str
    """what a message calls them"""
    whole: bool
    """whether they are all there are"""


def refuse_terms_apart(objective: Objective, data: Data, say: Callable[[str], None] = lambda _: None) -> None:
    """Raise ValueError for the first contrast whose sides no training sample has together, with the counts.

    Of a stream its first samples are looked at. Others may have what they lack, so that is only said, unless they are
    all there are. Data of another kind are not looked at.
    """
    if not isinstance(data, Samples) or len(data.fields) == ENOUGH:  # of two fields, a sample without both is bad
        return
    streamed = isinstance(data, StreamedSamples) and data.streaming
    looked = _look_at_beginning(data) if streamed else _look_at_table(data)  # type: ignore[arg-type]
    for what, sides, by_id in _contrasts(objective):
        there = [_has(side, looked) for side in sides]
        if looked.ids is not None and by_id:  # positives are all rows of an id, whichever of them has a side
            there = [np.isin(looked.ids, looked.ids[rows]) for rows in there]
        if np.logical_and.reduce(there).any():
            continue
        if looked.whole:
            raise ValueError(_say(what, sides, looked))
        say(f"warning: {_say(what, sides, looked)}; the other samples of the stream are not looked at")


def _look_at_table(data: Samples) -> Looked:
    filled = _usable(data, {name: data.train.filled(name) for name in data.fields})
    number = len(data.train)
    return Looked(filled, data.ids(data.train) if data.id else None, f"{number:,} training samples", True)


def _look_at_beginning(data: StreamedSamples) -> Looked:
    """Read the first samples of the first part, without decoding them."""
    source = (raw for raw in data.read(0) if isinstance(raw, Raw))
    raws = list(islice(source, FIRST))
    cells = {name: [not all(map(is_empty, raw.cells[name])) for raw in raws] for name in data.fields}
    filled = _usable(data, {name: np.array(there, bool) for name, there in cells.items()})
    ids = np.array([identify(raw.cells[ID], n) for n, raw in enumerate(raws)], np.int64) if data.id else None
    whole = data.parts() == 1 and next(source, None) is None
    return Looked(filled, ids, f"{'' if whole else 'the first '}{len(raws):,} training samples", whole)


def _usable(data: Samples, filled: Mapping[str, Bool[ndarray, " n"]]) -> dict[str, Bool[ndarray, " n"]]:
    """Take what bad samples have as missing: those with one field alone, or without a required one."""
    usable = np.sum(list(filled.values()), axis=0) >= ENOUGH
    for name, field in data.fields.items():
        usable &= filled[name] | (not field.required)
    return {name: there & usable for name, there in filled.items()}


def _contrasts(objective: Objective) -> Iterator[tuple[str, tuple[Side, ...], bool]]:
    """Give (what a message calls it, sides that have to meet, whether rows of one id do) of every contrast."""
    if isinstance(objective, Terms):
        for name, term in objective.named.items():
            yield f"term {name}", term.sides, term.positives not in (None, "pairwise")
        return
    sides = tuple(map(Side.parse, objective.all_sides))
    if objective.needs_complete:
        yield "the objective", sides, False
    else:  # what it contrasts with what, it knows itself
        for side in sides:
            if not (objective.fuses_partly and len(side.members) > 1):  # samples have two modalities at least
                yield f"side {side}", (side,), False


def _has(side: Side, looked: Looked) -> Bool[ndarray, " n"]:
    return np.logical_and.reduce([looked.filled[member] for member in side.members])


def _say(what: str, sides: tuple[Side, ...], looked: Looked) -> str:
    members = dict.fromkeys(member for side in sides for member in side.members)
    each = ", ".join(f"{name} {int(looked.filled[name].sum()):,}" for name in members)
    rows = zip(*looked.filled.values(), strict=True)
    together = Counter("+".join(name for name, has in zip(looked.filled, row, strict=True) if has) for row in rows)
    del together[""]
    shown = ", ".join(f"{there} {count:,}" for there, count in together.most_common(SHOWN))
    missed = " and ".join(members) + (" together" if len(members) > 1 else "")
    remedy = "the term" if what.startswith("term") else "the modality" if len(members) == 1 else "a modality"
    return (
        f"{what}: none of {looked.which} has {missed}, so it would learn nothing. There are {each}; "
        f"together {shown or 'nothing'}. Look with `wb data inspect` what data.fields reads, or drop {remedy}"
    )
