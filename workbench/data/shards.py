"""webdataset tars: `000001.jpg` beside `000001.txt`, in any number of tars, read in random order by their offsets.

The members are listed once and then read by position, so that the order is a pure function of the seed and a resume is
exact. `streaming` reads whole tars from front to back instead, for disks that are slow at random access; its order is
random only as far as the buffer reaches, it depends on the number of workers, and a resume begins at a whole tar near
where the run was (workbench/loading/stream.py). Nothing is ever unpacked: a member's name is a label, never a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.errors import BadSample
from workbench.loading.captions import CaptionReader, decode_text
from workbench.loading.choosing import Wanted
from workbench.loading.pairs import Keys, StreamedPairs
from workbench.loading.pairs_in_tars import TarPairs, read_tar
from workbench.loading.paths import Paths, describe, expand, missing, mixed
from workbench.loading.table import Raw

__all__ = ["Shards"]

CLASSES = "classnames.txt"
"""as CLIP_benchmark calls it, beside the tars or one folder above"""


class Shards(StreamedPairs[Paths]):
    """Image-text pairs in tars: an image and a `.txt` with a caption a line, under one key.

    Args:
        path: the training tars: a glob, braces or a list of them: 'cc12m/*.tar', 'cc12m/{0000..1242}.tar'.
        validation: held-out tars for evaluation, likewise.
        image_key: the ending of the pictures, as jpg, or a list of which the first that a sample has is taken; null:
            any ending of a picture, and a sample with two of them is left out.
        caption_key: key of the `.json` that holds a caption or a list of them; null takes the lines of the `.txt`,
            `.cap` those of another ending, `.syn.json:caption` a key of another one's JSON.
        classes: file with the name of a class in each line, where captions are numbers of classes (`.cls`); null:
            classnames.txt beside the tars, or above.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        image_key: Keys | None = None,
        caption_key: str | None = None,
        classes: Path | None = None,
        **more: Any,
    ) -> None:
        super().__init__(path, validation, **more)
        self.wanted, self.classes = Wanted.parse(image_key, caption_key), classes

    def absent(self, source: Paths) -> str | None:
        return missing(source, "tar", "(jpg + txt pairs)", self.key_of(source), "/where/*.tar")

    def table(self, source: Paths) -> TarPairs:
        files = self._files(source)
        pairs = TarPairs(files, self.wanted, self._reader(files))
        pairs.mixed = mixed(source)
        if len(pairs):
            return pairs
        if pairs.left_out and pairs.left_out[0].reason.startswith("is not a readable tar"):
            raise ValueError(" ".join(pairs.left_out[0]))
        said = f"the tars of {describe(source)} hold no image with a .{self.wanted.text} of the same name"
        hint = "" if self.wanted.key else "; if captions are in a .json, set data.caption_key"
        if there := ", ".join(f"{number:,} {what}" for what, number in pairs.beside.most_common(5)):
            hint += f"; there are {there}: data.image_key=jpg and data.caption_key=.cls, say, name other endings"
        first = f"; the first that is none is {pairs.left_out[0]}" if pairs.left_out else ""
        raise ValueError(said + hint + first)

    def parts(self) -> int:
        return len(self._tars)

    def read(self, part: int) -> Iterator[Raw | BadSample]:
        return read_tar(self._tars[part], self.wanted, self._reader(self._tars))

    def _reader(self, tars: list[str]) -> CaptionReader:
        """Raises ValueError when there is no file with the names of the classes."""
        classes = self.classes
        if classes is None and self.wanted.text == "cls":
            folder = Path(tars[0]).parent
            classes = next((f for f in (folder / CLASSES, folder.parent / CLASSES) if f.is_file()), None)
            if classes is None:
                return CaptionReader(classes=())
        if classes is None:
            return CaptionReader(self.wanted.key)
        names = [line.strip() for line in decode_text(classes.expanduser().read_bytes()).split("\n")]
        return CaptionReader(classes=names if names[-1] else names[:-1])

    @cached_property
    def _tars(self) -> list[str]:
        """List the tars to stream. Raises ValueError when they are of several splits."""
        if complaint := mixed(self.path):
            raise ValueError(complaint)
        return self._files(self.path)

    def _files(self, source: Paths) -> list[str]:
        if complaint := self.absent(source):
            raise ValueError(complaint)
        return expand(source)[0]
