"""webdataset tars: `000001.jpg` beside `000001.txt`, in any number of tars, read in random order by their offsets.

The members are listed once and then read by position, so that the order is a pure function of the seed and a resume is
exact. `streaming` reads whole tars from front to back instead, for disks that are slow at random access; its order is
random only as far as the buffer reaches, it depends on the number of workers, and a resume begins at a whole tar near
where the run was (workbench/loading/stream.py). Nothing is ever unpacked: a member's name is a label, never a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from workbench.errors import BadSample
from workbench.loading.pairs import StreamedPairs
from workbench.loading.pairs_in_tars import TarPairs, read_tar
from workbench.loading.paths import Paths, describe, expand, missing
from workbench.loading.table import Raw

__all__ = ["Shards"]


class Shards(StreamedPairs[Paths]):
    """Image-text pairs in tars: an image and a `.txt` with a caption a line, under one basename.

    Args:
        path: the training tars: a glob, braces or a list of them: 'cc12m/*.tar', 'cc12m/{0000..1242}.tar'.
        validation: held-out tars for evaluation, likewise.
        caption_key: key of the `.json` that holds a caption or a list of them; null takes the lines of the `.txt`.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        caption_key: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(path, validation, **more)
        self.caption_key = caption_key

    def missing(self) -> str | None:
        """One line on what to point where, when tars are not there."""
        return _missing(self.path)

    def table(self, source: Paths) -> TarPairs:
        tars = TarPairs(_files(source), self.caption_key)
        if not len(tars):
            partner = ".json" if self.caption_key else ".txt"
            hint = "" if self.caption_key else "; if captions are in a .json, set data.caption_key"
            raise ValueError(f"the tars of {describe(source)} hold no image with a {partner} of the same name{hint}")
        return tars

    def parts(self) -> int:
        return len(self._tars)

    def read(self, part: int) -> Iterator[Raw | BadSample]:
        return read_tar(self._tars[part], self.caption_key)

    @cached_property
    def _tars(self) -> list[str]:
        return _files(self.path)


def _files(source: Paths) -> list[str]:
    if complaint := _missing(source):
        raise ValueError(complaint)
    return expand(source)[0]


def _missing(source: Paths) -> str | None:
    return missing(source, "tar", "(jpg + txt pairs) with --set data.path='/where/*.tar'")
