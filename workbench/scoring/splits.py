"""The evaluation splits of a data set and their labels, asked for before anything is trained.

The trap: data of one's own may inherit from a shipped set and have other splits than that: where `split` was written
anew, what the shipped class knows of its own splits says nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from workbench.errors import did_you_mean
from workbench.types import Data


@runtime_checkable
class KnowsSplits(Protocol):
    """A data set that knows the names of its splits without reading any. One of your own need not."""

    def check_split(self, name: str) -> None:
        """Raise ValueError, as `split` does, where there is none of this name."""
        ...


@runtime_checkable
class KnowsLabels(KnowsSplits, Protocol):
    """A data set that knows, too, which labels the items of its splits have."""

    labels: Collection[str]


def refuse_missing_label(data: Data, name: str) -> None:
    """Raise ValueError where the data set knows that its items have no label of this name."""
    if isinstance(data, KnowsLabels) and _speaks_for_itself(data) and name not in data.labels:
        how = (
            did_you_mean(name, data.labels)
            if data.labels
            else f": declare it, as data.labels={{{name}: {{from: {name}}}}}"
        )
        raise ValueError(f"the data have no label '{name}'{how}")


def refuse_missing_splits(data: Data, *names: str) -> None:
    """Raise ValueError for the first name that the data set knows to be none of its splits."""
    if isinstance(data, KnowsSplits) and _speaks_for_itself(data):
        for name in names:
            data.check_split(name)


def _speaks_for_itself(data: Data) -> bool:
    return _owner(data, "check_split") is _owner(data, "split")


def _owner(data: Data, method: str) -> type | None:
    """Find the class that has written a method of the data set."""
    return next((owner for owner in type(data).__mro__ if method in vars(owner)), None)
