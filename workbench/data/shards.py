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
from typing import Any, cast

from workbench.errors import BadSample
from workbench.loading.choosing import OTHERS, USUAL, Wanted
from workbench.loading.fields import FieldSection, Keys
from workbench.loading.members import Readers, make_readers
from workbench.loading.paths import Paths, describe, expand, missing, mixed
from workbench.loading.samples_in_tars import TarSamples, read_tar
from workbench.loading.streamed_samples import StreamedSamples
from workbench.loading.table import ENOUGH, Raw

__all__ = ["Shards"]


class Shards(StreamedSamples[Paths]):
    """Samples in tars, whose members have one key; `from` names an ending: jpg, wav, npy, cls, or json:caption.

    Several endings of a picture or a sound are taken in their order; by default it is any ending of one, and a sample
    with two of them is left out. Of texts all are read: the lines of a .txt, what a .json holds under a key, the name
    of the class whose number a .cls holds.

    Args:
        path: the training tars: a glob, braces or a list of them: 'cc12m/*.tar', 'cc12m/{0000..1242}.tar'.
    """

    def __init__(self, *, path: Paths, **more: Any) -> None:
        super().__init__(path, **more)
        self.wanted = Wanted.parse(self.columns, self.declared)

    def usual_keys(self, name: str, field: FieldSection) -> Keys:
        return USUAL[cast(Any, field).kind]

    def absent(self, source: Paths) -> str | None:
        return missing(source, "tar", "(jpg + txt pairs)", self.key_of(source), "/where/*.tar")

    def table(self, source: Paths) -> TarSamples:
        files = self._files(source)
        found = TarSamples(files, self.wanted, self._readers(files))
        found.mixed = mixed(source)
        if len(found):
            return found
        if found.left_out and found.left_out[0].reason.startswith("is not a readable tar"):
            raise ValueError(" ".join(found.left_out[0]))
        raise ValueError(self._nothing_in(found, source))

    def _nothing_in(self, found: TarSamples, source: Paths) -> str:
        """Say what there is in tars that hold no sample, and what to set."""
        nouns = [self.wanted.slots[slots[0]].noun for slots in self.wanted.fields.values()]
        pair = list(self.declared) == ["image", "text"]
        what = f"no {nouns[0].replace('picture', 'image')} with a {nouns[1]}"
        what = what if len(nouns) == ENOUGH else f"no two of {', '.join(nouns)}"
        said = f"the tars of {describe(source)} hold {what} of the same name"
        in_json = any(key for places in self.wanted.columns.values() for _, key in places)
        hint = "" if in_json else "; if texts are in a .json, set data.fields.text.from=json:caption"
        if there := ", ".join(f"{number:,} {what}" for what, number in found.beside.most_common(5)):
            named = _propose_keys(list(found.beside)) if pair else "each field's `from`, as jpg, names other endings"
            hint += f"; there are {there}: {named}"
        first = f"; the first that is none is {found.left_out[0]}" if found.left_out else ""
        return said + hint + first

    def parts(self) -> int:
        return len(self._tars)

    def read(self, part: int) -> Iterator[Raw | BadSample]:
        return read_tar(self._tars[part], self.wanted, self._readers(self._tars))

    def _readers(self, tars: list[str]) -> Readers:
        return make_readers(self.wanted, self.declared, Path(tars[0]).parent)

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


def _propose_keys(there: list[str]) -> str:
    """Propose keys for endings that nobody asked for: captions where one mostly holds them, pictures in another."""
    texts = [ending for ending in (".cap", ".caption", ".text", ".cls") if ending in there]
    others = [ending for ending in there if ending[:1] == "." and ending[1:] not in OTHERS and ending not in texts]
    image = f"data.fields.image.from={others[0][1:]}" if others and texts else ""
    text = f"data.fields.text.from={texts[0][1:] if texts else 'ENDING'}"
    return f"{' and '.join(filter(None, (image, text)))} names them"
