"""Real inputs on which an export is compared with the run: those of its own validation split, if they can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.data.emoji import Emoji
from workbench.errors import shorten
from workbench.export.source import Source
from workbench.runs.measuring import training_items
from workbench.types import Modality, Side, Transform

MOST = 16
"""items of a modality that are compared"""
TRIED = 64
"""items that are tried for them: some may be bad"""
LEAST = 3
"""with fewer a wrong preparation could go unnoticed"""


@dataclass(frozen=True)
class Samples:
    """As many raw items of each modality, what the run's model makes of them, and where they come from."""

    raw: Mapping[str, Sequence[object]]
    inputs: Mapping[str, Tensor]
    """model inputs, as the run's encoders prepare the items"""
    origin: str
    rows: Mapping[Side, Tensor] = field(default_factory=dict)
    """{side: the run's own unit rows}"""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


MADE_UP = "packaged emoji and drawn numbers"
Items = Mapping[str, Iterator[object]]
"""{modality: raw items}"""


class Embedded(NamedTuple):
    """What a client makes of the samples."""

    rows: Mapping[Side, Tensor]
    """{side: unit rows} of the model inputs that the run prepares"""
    prepared: Mapping[Side, Tensor]
    """{side: unit rows} of what the client itself makes of the raw items; empty where it prepares nothing"""


def read_samples(source: Source) -> Samples:
    """Read items of each modality and embed them as every side of the run; items that are bad are left out.

    They come from the first split that has all modalities (those that evaluators name, then `validation`), else from
    the training data; where the data cannot be read, pictures and texts are packaged emoji, and numbers are drawn.

    Raises ValueError where not even these can be prepared.
    """
    why = ""
    for origin, items in _candidates(source):
        try:
            raw, inputs = _prepare(source, items())
        except Exception as error:  # whatever a data set or a transform of one's own may raise: the next is tried
            why = why or shorten(str(error), 120)
            continue
        rows = source.loaded.encode(inputs, [str(side) for side in source.sides])
        told = f"{origin}, as the run's own data cannot be read ({why})" if origin == MADE_UP else origin
        return Samples(raw, inputs, told, {Side.parse(name): z for name, z in rows.items()})
    raise ValueError(f"{source.run}: nothing can be verified, as its encoders can prepare no item: {why}")


def _candidates(source: Source) -> Iterator[tuple[str, Callable[[], Items]]]:
    """Yield where items may come from, and what reads them."""
    data, wanted = source.parts.data, source.loaded.modalities
    named = [getattr(spec.settings, "split", None) for spec in source.parts.recipe.eval.evaluators.values()]
    for name in dict.fromkeys([*(name for name in named if isinstance(name, str)), "validation"]):
        yield f"split '{name}'", partial(lambda n: {m: _spread(data.split(n).items[m].raw) for m in wanted}, name)
    yield "the training data", lambda: {m: training_items(data, m, 0, TRIED) for m in wanted}
    yield MADE_UP, lambda: _made_up(wanted)


def _spread(raw: Sequence[object]) -> Iterator[object]:
    """Yield items from all over a list: neighbours are often alike."""
    step = max(1, len(raw) // MOST)
    for i in range(0, len(raw), step):
        with suppress(ValueError, OSError):  # pictures may be decoded here
            yield raw[i]


def _made_up(wanted: Mapping[str, Modality]) -> dict[str, Iterator[object]]:
    emoji = Emoji().split("validation").items
    return {m: _spread(emoji[a.kind].raw) if a.kind in emoji else _drawn(a) for m, a in wanted.items()}


def _drawn(modality: Modality) -> Iterator[object]:
    generator = torch.Generator().manual_seed(0)
    while True:
        numbers = torch.randn(modality.shape, generator=generator)
        yield (numbers, modality.rate) if modality.kind == "audio" else numbers


def _prepare(source: Source, items: Items) -> tuple[dict[str, list[object]], dict[str, Tensor]]:
    """Prepare items as model inputs, as many of each modality. Raises ValueError where one has too few good ones."""
    found = {m: _good(items[m], source.loaded.preprocessors[m]) for m in source.loaded.modalities}
    number = min(map(len, found.values()))
    if number < LEAST:
        short = min(found, key=lambda m: len(found[m]))
        raise ValueError(f"{number} items of {short} can be read, and {LEAST} are needed")
    raw = {m: [item for item, _ in pairs[:number]] for m, pairs in found.items()}
    return raw, {m: torch.stack([x for _, x in pairs[:number]]) for m, pairs in found.items()}


def _good(items: Iterator[object], transform: Transform) -> list[tuple[object, Tensor]]:
    """Take the first items that can be prepared, with their model inputs."""
    found: list[tuple[object, Tensor]] = []
    for item in islice(items, TRIED):
        with suppress(Exception):  # a bad picture, say; a transform of one's own may raise anything
            found.append((item, transform(item)))
        if len(found) == MOST:
            break
    return found
