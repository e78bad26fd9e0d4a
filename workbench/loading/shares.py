"""Shares of the ids: held-out ones, and those that are trained on. What belongs together is never on both sides.

The trap: a share of the rows would put the second caption of a picture into the split that the first is held out from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from workbench.loading.captions import decode_text
from workbench.loading.cells import first_filled
from workbench.seeds import seed_for

_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


class Share(NamedTuple):
    """A share of the ids."""

    percent: float

    @staticmethod
    def parse(value: object) -> Share | None:
        """Read '10 %'; None for anything else. Raises ValueError for a share of nothing, or of all."""
        found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if not found:
            return None
        percent = float(found[1])
        if not 0 < percent < 100:
            raise ValueError(f"a split of {percent:g} % leaves nothing on one side: write a share between, as 10 %")
        return Share(percent)


@dataclass(frozen=True)
class Limit:
    """How many of the training ids are used: a number of them, or a share."""

    count: int | None
    share: Share | None

    @staticmethod
    def parse(value: int | str | None) -> Limit | None:
        """Read 500 or '25 %'; None stays None. Raises ValueError for anything else."""
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return Limit(value, None)
        if share := Share.parse(value):
            return Limit(None, share)
        raise ValueError(f"limit: {value!r}: write how many ids are trained on, as 500, or which share, as 25 %")

    def keep(self, ids: Int64[ndarray, " n"], seed: int) -> Int64[ndarray, " m"]:
        """Choose the rows of so many ids, drawn by the seed; a larger limit keeps what a smaller one does.

        Raises ValueError where none are left, or there are fewer ids than `count`.
        """
        known, of_row = np.unique(ids, return_inverse=True)
        count = self.count if self.share is None else round(self.share.percent / 100 * len(known))
        if not count or count > len(known):
            said = count if self.share is None else f"{self.share.percent:g} %"
            raise ValueError(
                f"limit: {said} of {len(known)} ids: set data.limit to a number between 1 and {len(known)}"
            )
        order = np.argsort([seed_for(seed, "limit", value) for value in known.tolist()], kind="stable")
        kept = np.zeros(len(known), dtype=bool)
        kept[order[:count]] = True
        return np.flatnonzero(kept[of_row])


def identify(cells: Sequence[object], index: int) -> int:
    """Make a number of an id, the same wherever it comes up; a row without one is a sample of its own."""
    cell = first_filled(cells)
    if cell is None:
        return seed_for("row", index)
    return seed_for("id", decode_text(cell).strip() if isinstance(cell, bytes) else str(cell).strip())


def divide(ids: Int64[ndarray, " n"], shares: Mapping[str, Share]) -> dict[str, Int64[ndarray, " m"]]:
    """Divide rows by their ids: {split: its rows}, and those of `train` are all others.

    Ids are taken in the order of a digest of theirs, so that the place of a row in its file says nothing of its split.

    Raises ValueError where a split, or training, would have none.
    """
    known, row_of = np.unique(ids, return_inverse=True)
    order = np.argsort([seed_for("share", value) for value in known.tolist()], kind="stable")
    parts: dict[str, Int64[ndarray, " m"]] = {}
    side = np.full(len(known), -1)
    begin = 0.0
    for place, (name, share) in enumerate(shares.items()):
        end = begin + share.percent / 100 * len(known)
        side[order[round(begin) : round(end)]] = place
        begin = end
        parts[name] = np.flatnonzero(side[row_of] == place)
    parts["train"] = np.flatnonzero(side[row_of] == -1)
    for name, rows in parts.items():
        if not len(rows):
            said = ", ".join(f"{other}: {share.percent:g} %" for other, share in shares.items())
            raise ValueError(f"{said} of {len(known)} ids leave none for {name}: give it more, or files of its own")
    return parts
