"""Where pairs lie: a table of encoded pictures and their captions, read by position.

The trap: worker processes read a table, too, so it keeps no file open: a handle that they share would share its
position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, overload

from PIL import Image

from workbench.errors import BadSample, shorten
from workbench.loading.captions import clean
from workbench.loading.decode import decode_image
from workbench.types import Skipped


class Raw(NamedTuple):
    """A pair as it lies in its source."""

    name: str
    image: bytes
    captions: Sequence[object]


class Table(Protocol):
    """Pairs in a fixed order. A table raises OSError or ValueError for a pair that it cannot read."""

    @property
    def left_out(self) -> Sequence[Skipped]:
        """what was found not to be a pair while listing"""
        ...

    @property
    def beside(self) -> Mapping[str, int]:
        """{what lies there and was not asked for: how many}"""
        ...

    @property
    def mixed(self) -> str | None:
        """what to do where pairs of several splits are listed together: nobody trains on test data by a glob"""
        ...

    @property
    def files(self) -> int | None:
        """how many files the pairs lie in, where that says something"""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Say what a person finds the pair by; no other pair has this name."""
        ...

    def image(self, index: int) -> bytes:
        """Read the picture, encoded."""
        ...

    def captions(self, index: int) -> Sequence[object]:
        """Read the captions as they are in the source: what is empty or no text is dropped later."""
        ...


def read_pair(table: Table, index: int, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """Decode the image to RGB and keep the captions that say something. Raises BadSample."""
    try:
        return decode_image(table.image(index), max_pixels), clean(table.captions(index))
    except (OSError, ValueError) as error:
        raise BadSample(table.name(index), shorten(str(error))) from None  # the name only now: it has to be read, too


@dataclass(frozen=True)
class Pictures(Sequence[Image.Image]):
    """Pictures of some rows of a table, decoded on access."""

    table: Table
    rows: list[int]
    max_pixels: int

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Image.Image: ...
    @overload
    def __getitem__(self, at: slice) -> Pictures: ...
    def __getitem__(self, at: int | slice) -> Image.Image | Pictures:
        if isinstance(at, slice):
            return Pictures(self.table, self.rows[at], self.max_pixels)
        return decode_image(self.table.image(self.rows[at]), self.max_pixels)
