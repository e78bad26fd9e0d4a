"""A look at every sample of a data set before it is trained on: what it has, sizes, captions, what is bad, the speed.

The trap: captions that several images share are false negatives of each other while a sample is its own id, as in all
sources here but emoji; how many there are in a batch depends on its size, the share of all captions does not.
"""

from __future__ import annotations

import io
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from PIL import Image

from workbench.errors import BadSample, DataLost, failure
from workbench.inspection.tallies import CONTEXT, Captions, Images, Seen
from workbench.loading.cells import first_filled, read_encoded
from workbench.loading.decode import FORMATS, is_turned
from workbench.loading.fields import ImageField, TextField
from workbench.loading.samples import Samples, cells_in
from workbench.loading.table import Table, read_sample
from workbench.seeds import seed_for
from workbench.types import Skipped, Split


class Listing(Protocol):
    """Samples that can be looked at, one by one."""

    @property
    def left_out(self) -> Sequence[Skipped]: ...

    @property
    def beside(self) -> Mapping[str, int]: ...

    @property
    def mixed(self) -> str | None: ...

    @property
    def files(self) -> int | None: ...

    @property
    def fields(self) -> Collection[str]: ...

    def __len__(self) -> int: ...

    def see(self, index: int) -> Seen:
        """Raises BadSample."""
        ...


class _OfSamples:
    """The samples of a source, as they are stored."""

    def __init__(self, data: Samples) -> None:
        # not `data.train`, which refuses many bad ones instead of naming them
        self.table: Table = data.table(data.path)
        self.left_out, self.beside, self.files = self.table.left_out, self.table.beside, self.table.files
        self.mixed = self.table.mixed
        try:
            self.fields = data.measured(partial(cells_in, self.table))
        except ValueError:  # each of them is named when it is looked at
            self.fields = data.declared
        self.image = next((name for name, each in self.fields.items() if isinstance(each, ImageField)), None)
        self.texts = [name for name, each in self.fields.items() if isinstance(each, TextField)]
        for each in self.fields.values():
            each.prepare()

    def __len__(self) -> int:
        return len(self.table)

    def see(self, index: int) -> Seen:
        try:
            items = read_sample(self.table, index, self.fields)
        except DataLost as error:
            raise ValueError(str(error)) from None
        captions = [text for name in self.texts for text in items[name]]
        if self.image is None or not items[self.image]:
            return Seen(None, captions, index, items)
        cell = first_filled(self.table.cells(index, self.image))
        encoded = read_encoded(cell, self.table.root(index, self.image), "picture")
        header = Image.open(io.BytesIO(encoded), formats=FORMATS)
        animated = False
        with suppress(Exception):  # the first frame is sound: whatever is wrong with the second one is nobody's concern
            animated = bool(getattr(header, "is_animated", False)) and header.format != "MPO"  # a phone's is no film
        image, kind = items[self.image][0], (header.format, header.mode, animated, is_turned(header))
        return Seen(image, captions, index, items, len(encoded), *kind)


class _OfSplit:
    """A data set of another kind, by its training split: images and texts that ids link."""

    left_out: Sequence[Skipped] = ()
    beside: Mapping[str, int] = {}
    mixed: str | None = None
    files = None
    fields = ("image", "text")

    def __init__(self, split: Split) -> None:
        self.images, texts = split.items["image"], split.items["text"]
        self.captions: dict[int, list[str]] = {}
        for text, id_ in zip(texts.raw, texts.ids.tolist(), strict=True):
            self.captions.setdefault(id_, []).append(text)

    def __len__(self) -> int:
        return len(self.images)

    def see(self, index: int) -> Seen:
        concept = int(self.images.ids[index])
        image, texts = self.images.raw[index], self.captions.get(concept, [])
        return Seen(image, texts, concept, {"image": [image], "text": texts})


def listing(data: Any) -> Listing:
    """Raises ValueError when the data has no images with texts, or is not there."""
    if isinstance(data, Samples):
        return _OfSamples(data)
    if not {"image", "text"} <= set(data.modalities):
        raise ValueError(f"only images with texts can be inspected; this data has {', '.join(data.modalities)}")
    return _OfSplit(data.split("train"))


@dataclass
class Inspection:
    """The facts found about a data set. Of three numbers, one is the smallest, one the median, one the largest."""

    pairs: int
    files: int | None
    inspected: int
    usable: int
    fields: dict[str, int]
    """{field: usable samples that have it}"""
    combinations: dict[str, int]
    """{fields that a sample has, as image+text: usable samples with these and no others}"""
    images: dict[str, Any]
    captions: dict[str, Any]
    bad: list[Skipped]
    beside: dict[str, int]
    """{what lies there and is no part of a pair: how many}"""
    images_per_second: float
    """read and decoded, by one process"""
    good: array[int] = field(repr=False)
    """indices of usable samples"""

    @property
    def are_pairs(self) -> bool:
        """Whether these are images with their captions, and no samples of other fields."""
        return self.fields.keys() <= {"image", "text"}

    def as_dict(self, shown: int = 10) -> dict[str, Any]:
        """Give plain values, with the first bad samples."""
        whole = {key: value for key, value in vars(self).items() if key != "good"}
        first = [bad._asdict() for bad in self.bad[:shown]]
        return whole | {"bad": {"number": len(self.bad), "first": first}}


def chosen(count: int, limit: int | None) -> list[int]:
    """Choose all indices, or `limit` random ones, the same every time, in the order of their storage."""
    if limit is None or limit >= count:
        return list(range(count))
    rng = np.random.default_rng(seed_for("inspect", count))
    return sorted(rng.choice(count, limit, replace=False).tolist())


def inspect(
    data: Listing,
    indices: Sequence[int],
    progress: Callable[[int], None] = lambda _: None,
    context: int = CONTEXT,
) -> Inspection:
    """Decode the samples of `indices`; `context` is how many tokens of a caption are read.

    Raises ValueError when files vanish meanwhile.
    """
    images, captions, bad, good = Images(), Captions(context), list(data.left_out), array("q")
    combinations: Counter[tuple[str, ...]] = Counter()
    fields = dict.fromkeys(data.fields, 0)
    seconds = 0.0
    for number, index in enumerate(indices, 1):
        start = time.perf_counter()
        try:
            seen = data.see(index)
        except BadSample as error:
            bad.append(Skipped(error.name, error.reason))
            continue
        except BaseException as error:  # whatever a data set of one's own may raise
            raise failure(f"sample {index}", error, "") from None
        finally:
            seconds += time.perf_counter() - start
            progress(number)
        images.add(seen)
        captions.add(seen)
        good.append(index)
        combinations[tuple(name for name, items in seen.items.items() if items)] += 1
        for name, items in seen.items.items():
            fields[name] += bool(items)
    beside = {what: number for what, number in data.beside.items() if number}
    return Inspection(
        len(data), data.files, len(indices), len(good), fields,
        {"+".join(there): number for there, number in combinations.most_common()},
        images.facts(), captions.facts(), bad, beside,
        len(indices) / seconds if seconds else 0.0, good,
    )  # fmt: skip
