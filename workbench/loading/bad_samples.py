"""How many bad samples a run may have before it fails: a few of millions are nobody's fault, a share of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

from workbench.types import Skipped

MAX_BAD = 0.01
ALWAYS = 10
"""bad samples that any share allows: one among the first hundred says nothing"""
SHOWN = 3

MaxBad = Annotated[float, Field(ge=0)]
"""below 1 a share of the samples, from 1 on a number of them"""


@runtime_checkable
class LeavesOut(Protocol):
    """A data set that finds bad samples by itself, while it lists them or decodes a split, not in a batch."""

    skipped: list[Skipped]
    """what it has left out since this list was last emptied: a run writes it down"""
    max_bad: float
    """a MaxBad"""


@runtime_checkable
class MayBeMissing(Protocol):
    """A data set of files that need not be there yet."""

    def missing(self) -> str | None:
        """Say in one line what to point where, when the training data is not there."""
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """A data set of files whose held-out part need not be there either."""

    def missing_held_out(self) -> str | None:
        """Say in one line what to point where, when there is to be held-out data, and it is not there."""
        ...


def refuse_too_many(bad: Sequence[Skipped], of: int, max_bad: float, remedy: str = "") -> None:
    """Raises ValueError that names some of them when `bad` among `of` samples are more than `max_bad` allows."""
    allowed = max_bad if max_bad >= 1 else max(ALWAYS, max_bad * of) if max_bad else 0
    if len(bad) <= allowed:
        return
    shown = "; ".join(map(str, bad[:SHOWN])) + ("; and others" if len(bad) > SHOWN else "")
    raise ValueError(
        f"{len(bad)} bad samples among {of} are more than data.max_bad={max_bad:g} allows ({allowed:.0f}): {shown}. "
        f"{remedy}Mend or remove them, or raise data.max_bad (a share below 1, a number from 1 on)"
    )
