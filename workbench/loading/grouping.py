"""Which members of a tar, or files of a folder, belong to one sample: those with the same key.

The key is a name up to the first dot of its last part, as in webdataset: `0.jpg`, `0.txt` and `0.seg.png` are three
fields of sample `0`. Where no member of that key has an ending without a dot, the dots belong to the names, as in
`22.05.jpg` beside `22.05.txt`, and the key ends at the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from workbench.loading.paths import is_hidden

LINK, SPARSE, SPECIAL = -1, -2, -3
"""in the place of a size: why a member's content is not where its header says"""
SAMPLE, ENDING, AT, OFFSET, SIZE = range(5)
"""columns of an Index"""


@dataclass(frozen=True)
class Index:
    """The members of a tar or the files of a folder, grouped by sample."""

    rows: Int64[ndarray, "n 5"]
    """sample, ending, where its header begins, where its content does, its size or flaw; in the order of the tar"""
    endings: list[str]
    """in small letters, without the dot that they begin with"""
    faults: list[str] = field(default_factory=list)
    """what is wrong with the whole; what lies before is listed"""
    beside: Mapping[str, int] = field(default_factory=dict)
    """{what is no field of any sample: how many there are}"""


class Grouping:
    """Collects members one by one."""

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._samples = 0
        self._endings: dict[str, int] = {}
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._dotted: list[tuple[int, str]] = []
        self._beside: Counter[str] = Counter()

    def add(self, name: str, at: int, offset: int, size: int) -> None:
        """Add a member. Its place in the order is that of this call."""
        if is_hidden(name):
            self._beside["hidden files"] += 1
            return
        key, ending = split_name(name)
        if not ending:
            self._beside["files without an ending"] += 1
            return
        if "." in ending:  # only when all are known it is clear where its key ends
            self._dotted.append((len(self._rows), name))
            self._rows.append((-1, -1, at, offset, size))
            return
        self._rows.append((self._sample(key), self._ending(ending), at, offset, size))

    def close(self) -> None:
        """Begin a new archive, whose keys have nothing to do with those before."""
        plain = self._keys.copy() if self._dotted else self._keys
        for row, name in self._dotted:
            key, ending = split_name(name)
            if key not in plain:
                key, _, ending = name.rpartition(".")
            _, _, *where = self._rows[row]
            self._rows[row] = (self._sample(key), self._ending(ending.lower()), where[0], where[1], where[2])
        self._dotted, self._keys = [], {}

    def index(self, faults: Sequence[str] = ()) -> Index:
        """Give what was collected, samples numbered in the order in which they first come up."""
        self.close()
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 5)
        _, first = np.unique(rows[:, SAMPLE], return_index=True)
        number = np.empty(self._samples, np.int64)
        number[np.argsort(first)] = np.arange(self._samples)
        rows[:, SAMPLE] = number[rows[:, SAMPLE]]
        return Index(rows, list(self._endings), list(faults), dict(self._beside))

    def _sample(self, key: str) -> int:
        if key not in self._keys:
            self._keys[key] = self._samples
            self._samples += 1
        return self._keys[key]

    def _ending(self, ending: str) -> int:
        return self._endings.setdefault(ending, len(self._endings))


def split_name(name: str) -> tuple[str, str]:
    """Split a name into its key and its ending, at the first dot of its last part."""
    begin = name.rfind("/") + 1
    dot = name.find(".", begin)
    return (name[:dot], name[dot + 1 :].lower()) if dot >= 0 else (name, "")
