"""webdataset tars: `000001.jpg` beside `000001.txt`, in any number of tars, read in random order by their offsets.

The members are listed once and then read by position, so that the order is a pure function of the seed and a resume is
exact; plain streaming could not promise either.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt

from workbench.feed import Feed
from workbench.types import Batch, Items, Modality, Sample, Split

__all__ = ["Shards"]

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


class Shards:
    """Image-text pairs in tars: an image and a `.txt` with a caption a line, under one basename.

    Args:
        path: the training tars, as a glob: 'cc12m/*.tar'.
        validation: held-out tars for evaluation, as a glob.
        samples: pairs in the training tars, for plans made before the data is there; counted when it is.
        views: augmentations of each image.
        captions: captions drawn for each image, without repetition; missing ones are marked invalid.
    """

    def __init__(
        self,
        *,
        path: str,
        validation: str | None = None,
        samples: PositiveInt | None = None,
        views: PositiveInt = 1,
        captions: PositiveInt = 1,
    ) -> None:
        self.path, self.validation, self.samples, self.views, self.captions = path, validation, samples, views, captions
        self.modalities = {"image": Modality("image", count=views), "text": Modality("text", count=captions)}

    def missing(self) -> str | None:
        """One line on what to point where, when no tar is found."""
        if glob(self.path):
            return None
        return f"no tar matches '{self.path}': point to yours (jpg + txt pairs) with --set data.path='/where/*.tar'"

    def __len__(self) -> int:
        if self.missing() and self.samples:
            return self.samples
        return len(self._train)

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        self._train  # noqa: B018  # list the members here, not in every worker
        return feed.load(self, start)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        pair = self._train[index]
        captions = pair.captions()
        chosen = rng.permutation(len(captions))[: self.captions]
        return Sample({"image": [pair.image()] * self.views, "text": [captions[i] for i in chosen]}, index)

    def split(self, name: str) -> Split:
        if name != "validation" or self.validation is None:
            raise ValueError(
                f"data shards has no split '{name}': set data.validation to held-out tars for 'validation'"
            )
        pairs = self._list(self.validation)
        texts = [(text, i) for i, pair in enumerate(pairs) for text in pair.captions()]
        image_ids, text_ids = torch.arange(len(pairs)), torch.tensor([i for _, i in texts])
        return Split({"image": Items(_Images(pairs), image_ids), "text": Items([t for t, _ in texts], text_ids)})

    @cached_property
    def _train(self) -> list[Pair]:
        return self._list(self.path)

    def _list(self, pattern: str) -> list[Pair]:
        pairs = [pair for tar in sorted(glob(pattern)) for pair in list_pairs(Path(tar))]
        if not pairs:
            raise ValueError(self.missing() or f"the tars of '{pattern}' hold no image with a .txt of the same name")
        return pairs


@dataclass(frozen=True, slots=True)
class Pair:
    """Where in a tar an image and its captions lie: (offset, bytes) of each."""

    tar: str
    image_at: tuple[int, int]
    text_at: tuple[int, int]

    def image(self) -> Image.Image:
        content = self._read(self.image_at)
        try:
            return Image.open(io.BytesIO(content)).convert("RGB")
        except OSError as error:
            raise ValueError(f"{self.tar}: the image at byte {self.image_at[0]} is damaged: {error}") from None

    def captions(self) -> list[str]:
        lines = self._read(self.text_at).decode("utf-8", "replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def _read(self, place: tuple[int, int]) -> bytes:
        offset, size = place
        handle = os.open(self.tar, os.O_RDONLY)
        try:
            content = os.pread(handle, size, offset)
        finally:
            os.close(handle)
        if len(content) < size:
            raise ValueError(f"{self.tar} has become shorter than when its members were listed")
        return content


def list_pairs(tar: Path) -> list[Pair]:
    """The complete pairs of a tar, in its order. Raises ValueError when it is not a tar."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                stem, extension = str(path.with_suffix("")), path.suffix
                kind = "image" if extension.lower() in IMAGES else "text" if extension == ".txt" else None
                if member.isfile() and kind:
                    found.setdefault(stem, {})[kind] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{tar} is not a readable tar: {error}; remove it or build it again") from None
    return [Pair(str(tar), p["image"], p["text"]) for p in found.values() if len(p) == 2]


@dataclass(frozen=True)
class _Images(Sequence):
    pairs: list[Pair]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        return self.pairs[index].image()
