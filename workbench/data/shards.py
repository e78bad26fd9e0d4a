"""webdataset tars: `000001.jpg` beside `000001.txt`, in any number of tars, read in random order by their offsets.

The members are listed once and then read by position, so that the order is a pure function of the seed and a resume is
exact. `streaming` reads whole tars from front to back instead, for disks that are slow at random access; its order is
random only as far as the buffer reaches, it depends on the number of workers, and a resume begins at a whole tar near
where the run was (workbench/loading/stream.py). Nothing is ever unpacked: a member's name is a label, never a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from pydantic import PositiveInt

from workbench.errors import BadSample
from workbench.loading.bad_samples import MAX_BAD, MaxBad
from workbench.loading.decode import MAX_PIXELS, PixelLimit
from workbench.loading.pairs import Pick, Raw, StreamedPairs
from workbench.loading.pairs_in_tars import Tars, read_tar
from workbench.loading.paths import Paths, describe, expand, missing

__all__ = ["Shards"]


class Shards(StreamedPairs):
    """Image-text pairs in tars: an image and a `.txt` with a caption a line, under one basename.

    Args:
        path: the training tars: a glob, braces or a list of them: 'cc12m/*.tar', 'cc12m/{0000..1242}.tar'.
        validation: held-out tars for evaluation, likewise.
        samples: pairs in the training tars, for plans made before the data is there, and for streaming; else counted.
        views: augmentations of each image.
        captions: captions of each image, at most; missing ones are marked invalid.
        pick: which captions, when an image has more: `random` ones without repetition, the `first`, or the `longest`.
        caption_key: key of the `.json` that holds a caption or a list of them; null takes the lines of the `.txt`.
        streaming: read whole tars from front to back instead of by offset.
        buffer: pairs that wait to be shuffled in every worker, when streaming; more mix the tars better.
        max_pixels: larger images are bad samples.
        max_bad: bad samples before the run fails: a share of those seen below 1, a number from 1 on.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        samples: PositiveInt | None = None,
        views: PositiveInt = 1,
        captions: PositiveInt = 1,
        pick: Pick = "random",
        caption_key: str | None = None,
        streaming: bool = False,
        buffer: PositiveInt = 2000,
        max_pixels: PixelLimit = MAX_PIXELS,
        max_bad: MaxBad = MAX_BAD,
    ) -> None:
        super().__init__(
            path,
            validation,
            samples=samples,
            views=views,
            captions=captions,
            pick=pick,
            max_pixels=max_pixels,
            max_bad=max_bad,
            streaming=streaming,
            buffer=buffer,
        )
        self.caption_key = caption_key

    def missing(self) -> str | None:
        """One line on what to point where, when tars are not there."""
        return _missing(self.path)

    def table(self, source: Paths) -> Tars:
        tars = Tars(_files(source), self.caption_key)
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
