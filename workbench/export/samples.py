"""Real inputs on which an export is compared with the run: those of its own validation split, if they can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.data.emoji import Emoji
from workbench.errors import shorten
from workbench.export.source import Source
from workbench.runs.measuring import training_items
from workbench.types import Modality, Side

MOST = 16
"""items of a modality that are compared"""
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


class Embedded(NamedTuple):
    """What a client makes of the samples."""

    rows: Mapping[Side, Tensor]
    """{side: unit rows} of the model inputs that the run prepares"""
    prepared: Mapping[Side, Tensor]
    """{side: unit rows} of what the client itself makes of the raw items; empty where it prepares nothing"""


def read_samples(source: Source) -> Samples:
    """Read items of each modality and embed them as every side of the run.

    They come from the first split that has all modalities (those that evaluators name, then `validation`), else from
    the training data; where the data cannot be read, pictures and texts are packaged emoji, and numbers are drawn.
    """
    for origin, items in _candidates(source):
        if samples := _prepare(source, origin, items):
            rows = source.loaded.encode(samples.inputs, [str(side) for side in source.sides])
            return Samples(samples.raw, samples.inputs, origin, {Side.parse(name): z for name, z in rows.items()})
    raise ValueError(f"{source.run}: no item can be prepared by its encoders, so that nothing could be verified")


def _candidates(source: Source) -> Iterator[tuple[str, Mapping[str, Iterator[object]]]]:
    names = [getattr(spec.settings, "split", None) for spec in source.parts.recipe.eval.evaluators.values()]
    wanted = source.loaded.modalities
    why = "the run's data"
    for name in dict.fromkeys([*(name for name in names if isinstance(name, str)), "validation"]):
        try:
            split = source.parts.data.split(name).items
            yield f"split '{name}'", {m: _spread(split[m].raw) for m in wanted}
        except Exception as error:  # whatever a data set of one's own may raise: the next one is tried
            why = shorten(str(error), 120)
    try:
        yield "the training data", {m: training_items(source.parts.data, m, 0, MOST) for m in wanted}
    except Exception as error:
        why = shorten(str(error), 120)
    yield f"packaged emoji and drawn numbers, as the run's own data cannot be read ({why})", _made_up(wanted)


def _spread(raw: Sequence[object]) -> Iterator[object]:
    """Yield items from all over a list: neighbours are often alike."""
    step = max(1, len(raw) // MOST)
    return (raw[i] for i in range(0, len(raw), step))


def _made_up(wanted: Mapping[str, Modality]) -> dict[str, Iterator[object]]:
    emoji = Emoji().split("validation").items
    return {m: _spread(emoji[a.kind].raw) if a.kind in emoji else _drawn(a) for m, a in wanted.items()}


def _drawn(modality: Modality) -> Iterator[object]:
    generator = torch.Generator().manual_seed(0)
    while True:
        numbers = torch.randn(modality.shape, generator=generator)
        yield (numbers, modality.rate) if modality.kind == "audio" else numbers


def _prepare(source: Source, origin: str, items: Mapping[str, Iterator[object]]) -> Samples | None:
    """Prepare items as model inputs, as many of each modality; None where one has too few that can be read."""
    raw: dict[str, list[object]] = {}
    inputs: dict[str, list[Tensor]] = {}
    try:
        for m, transform in source.loaded.preprocessors.items():
            raw[m] = list(islice(items[m], MOST))
            inputs[m] = [transform(item) for item in raw[m]]
    except Exception:  # a file that is gone, a class of one's own: other items are tried
        return None
    number = min(map(len, inputs.values()))
    if number < LEAST:
        return None
    stacked = {m: torch.stack(x[:number]) for m, x in inputs.items()}
    return Samples({m: x[:number] for m, x in raw.items()}, stacked, origin)
