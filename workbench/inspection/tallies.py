"""What is counted of each sample that is looked at: size and kind of its picture, number and length of its texts."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from workbench.postponed import OF_OPEN_CLIP, postponed

with postponed(*OF_OPEN_CLIP):
    from open_clip import SimpleTokenizer

read_tokenizer = cache(SimpleTokenizer)
"""reads CLIP's vocabulary, a tenth of a second, once"""
CONTEXT = 77
"""tokens of CLIP's texts, its begin and its end included: what is counted where no recipe says how many are read"""


class Seen(NamedTuple):
    """One sample."""

    image: Image.Image | None
    captions: list[str]
    concept: int
    """samples of one concept share their captions rightly"""
    items: Mapping[str, Sequence[Any]] = {}
    """{field: its raw items}, none where it is missing"""
    bytes: int | None = None
    format: str | None = None
    mode: str | None = None
    animated: bool = False
    turned: bool = False
    """the camera was held upright, say, and the file says so"""


class Images:
    """Sizes and kinds, in arrays: there may be millions."""

    def __init__(self) -> None:
        self.widths, self.heights, self.bytes = array("i"), array("i"), array("q")
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.animated = self.turned = 0

    def add(self, seen: Seen) -> None:
        if seen.image is None:
            return
        self.widths.append(seen.image.width)
        self.heights.append(seen.image.height)
        if seen.bytes is not None:
            self.bytes.append(seen.bytes)
            self.formats[seen.format or "?"] += 1
            self.modes[seen.mode or "?"] += 1
        self.animated += seen.animated
        self.turned += seen.turned

    def facts(self) -> dict[str, Any]:
        pixels = np.array(self.widths, np.int64) * np.array(self.heights, np.int64)
        order = np.argsort(pixels, kind="stable").tolist()
        places = [order[0], order[(len(order) - 1) // 2], order[-1]] if order else []
        return {
            "sizes": [[self.widths[at], self.heights[at]] for at in places],  # by area
            "bytes": three(self.bytes),
            "formats": dict(self.formats.most_common()),
            "modes": dict(self.modes.most_common()),
            "animated": self.animated,
            "turned": self.turned,
        }


class Captions:
    """Numbers, lengths and repetitions; of each text only a hash is kept."""

    def __init__(self, context: int) -> None:
        self.context, self.tokenizer = context, read_tokenizer()
        self.of_image: Counter[int] = Counter()
        self.tokens, self.hashes = array("i"), array("q")
        self.concepts: set[int] = set()

    def add(self, seen: Seen) -> None:
        if not seen.captions:
            return
        self.of_image[len(seen.captions)] += 1
        if seen.concept in self.concepts:
            return
        self.concepts.add(seen.concept)
        self.tokens.extend(len(self.tokenizer.encode(text)) + 2 for text in seen.captions)
        self.hashes.extend(map(hash, set(seen.captions)))

    def facts(self) -> dict[str, Any]:
        _, times = np.unique(np.array(self.hashes, np.int64), return_counts=True)
        lengths = np.array(self.tokens)
        return {
            "number": len(self.tokens),
            "per_image": three(list(self.of_image.elements())),
            "histogram": dict(sorted(self.of_image.items())),
            "tokens": three(self.tokens),
            "context": self.context,
            "cut": float((lengths > self.context).mean()) if len(lengths) else 0.0,
            "shared": float(times[times > 1].sum() / times.sum()) if len(times) else 0.0,
        }


def three(numbers: Sequence[int]) -> list[int]:
    """Find the smallest, the median (the lower one) and the largest; nothing of nothing."""
    ordered = np.sort(np.asarray(numbers))
    return [int(ordered[0]), int(ordered[(len(ordered) - 1) // 2]), int(ordered[-1])] if len(ordered) else []
