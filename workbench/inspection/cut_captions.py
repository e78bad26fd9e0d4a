"""Captions longer than a recipe's own text towers read: a tower cuts them without a word, and learns from the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from workbench.errors import BadSample
from workbench.loading.feed import MapStyle
from workbench.loading.paths import as_tuple, expand
from workbench.recipe.schema import Recipe
from workbench.seeds import seed_for
from workbench.types import Data, Encoder, Modality

FEW = 100
"""samples that are read for `wb check`, which takes no time; `wb data inspect RECIPE` reads all"""
SMALL = 2**26
"""bytes of data that are listed for them"""
LISTED = tuple(f"workbench.data.{name}" for name in ("csv", "json", "folder", "shards", "emoji"))
"""sources that are listed without a copy in a cache, which `datasets` makes"""
COPIED = ("workbench.data.parquet", "workbench.data.hf")
"""sources that `datasets` copies"""


@runtime_checkable
class Cuts(Protocol):
    """A transform of texts that knows what it cuts."""

    def cuts(self, text: str) -> bool:
        """Say whether the text has more tokens than the tower reads."""
        ...


def read_context(recipe: Recipe) -> int | None:
    """Tell how many tokens of a caption the recipe's encoder `text` reads; None where it does not say, or is not."""
    spec = recipe.model.encoders.get("text")
    if spec is None:
        return None
    with torch.device("meta"):
        return getattr(spec.build(Modality("text"), recipe.model.dim), "context_length", None)


def cut_captions(data: MapStyle, encoders: Mapping[str, Encoder]) -> Iterator[str]:
    """Say, a line a tower, how many captions of a few samples it cuts. Nothing is said of data that is large."""
    texts = {name: encoder for name, encoder in encoders.items() if data.modalities[name].kind == "text"}
    readers = {name: reader for name, encoder in texts.items() if (reader := _reader(encoder)) is not None}
    if not readers or not is_small(data):
        return
    captions = _few_captions(data, list(readers))
    for name, cuts in readers.items():
        cut = sum(map(cuts, captions[name]))
        if cut:
            yield (
                f"{cut} of {len(captions[name])} captions that were looked at have more than the "
                f"{encoders[name].context_length} tokens that encoder '{name}' reads, and are cut: raise "
                f"model.encoders.{name}.context_length, or shorten them (wb data inspect RECIPE counts all)"
            )


def _reader(encoder: Encoder) -> Callable[[str], bool] | None:
    transform = encoder.transform(train=False)
    return transform.cuts if encoder.context_length and isinstance(transform, Cuts) else None


def is_small(data: Data | MapStyle, copied: bool = False) -> bool:
    """Say whether data can be listed in no time: what is packaged, and files of little size, also such as are `copied`.

    A folder is as large as what lies in it directly.
    """
    if type(data).__module__ not in (*LISTED, *(COPIED if copied else ())):
        return False
    folder = getattr(data, "folder", None)  # of `datasets`, where `path` is the name of a split
    if folder is not None:
        return folder.is_dir() and 0 < sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= SMALL
    path = getattr(data, "path", None)
    if path is None:
        return True
    try:
        found, _ = expand(as_tuple(getattr(path, "paths", getattr(path, "folders", path))))
        sizes = [_size(Path(file)) for file in found[: SMALL // 2**10]]
    except (OSError, ValueError):
        return False
    return 0 < sum(sizes) <= SMALL


def _size(file: Path) -> int:
    return sum(each.stat().st_size for each in file.iterdir()) if file.is_dir() else file.stat().st_size


def _few_captions(data: MapStyle, names: list[str]) -> dict[str, list[str]]:
    """Read the captions of samples that are evenly spread, as a training would; bad ones are told elsewhere."""
    captions: dict[str, list[str]] = {name: [] for name in names}
    count = len(data)
    for index in np.linspace(0, count - 1, min(FEW, count)).round().astype(int).tolist():
        try:
            sample = data.sample(index, np.random.default_rng(seed_for("cut", index)))
        except BadSample:
            continue
        for name in names:
            captions[name] += [text for text in sample.inputs.get(name, ()) if isinstance(text, str)]
    return captions
