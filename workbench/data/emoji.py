"""Emoji: real drawings by several vendors, several texts and names in six more languages of each concept; ships with
the program.

Every training drawing is the anchor of one sample an epoch; the concept is the sample's id, so drawings and texts of
one emoji are never negatives of each other. Held out are concepts (`validation`, `test`; by families, so that no gender
or direction variant leaks) and vendors' styles of training concepts (`style_a`, `style_b`). Made by
workbench/builders/emoji.

The trap: an epoch goes through the drawings, not the concepts, so concepts that many vendors drew come up more often.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from pydantic import PositiveInt

from workbench.loading.feed import Feed
from workbench.loading.shares import Limit, Share
from workbench.seeds import seed_for
from workbench.types import Batch, Classes, Items, Modality, Sample, Split

__all__ = ["Emoji"]

PACKAGED = Path(__file__).parents[1] / "assets" / "emoji"
FILES = {
    "train": "train.parquet",
    "validation": "validation.parquet",
    "test": "test.parquet",
    "style_a": "style_a.parquet",
    "style_b": "share_alike/style_b.parquet",  # OpenMoji's drawings, under a share-alike licence
}
TARGETS = ("group", "subgroup")
SHUFFLED = "shuffled"
"""the modality of texts of other concepts"""
Language = Literal["de", "fr", "es", "ja", "zh", "ru"]


class Emoji:
    """Drawings and texts of Unicode emoji: a small, real image-text set with several views of both.

    Args:
        views: drawings per sample; the first is the anchor, whatever the number
        captions: texts per sample; a concept with fewer gives what it has
        drawings: `same`: all views are the anchor drawing (the transform augments each on its own); `different`: other
            drawings of the concept, repeated when there are fewer than views
        captions_from: what the first caption is: the emoji's `name`, or `any` of its texts; the others are any others
        languages: further modalities, each the concept's name in a language (Unicode's, one a concept), as [de, fr]
        shuffled: a further modality `shuffled`: a text of another concept, drawn anew each time, as a control of what a
            fusion reads; its encoder is {name: shared, with: text}. In evaluation it is the name of the concept
        limit: concepts to train on, drawn by the run's seed: a number, or a share, as 25 %; default: all. Evaluation
            splits stay whole
        noise: a share of the training drawings, as 40 %, whose `text` is another concept's throughout, drawn by the
            run's seed: captions of the web are wrong like that. Evaluation splits stay right
        path: folder of another build of the set (`wb data build emoji`); default: the one in the package
    """

    def __init__(
        self,
        *,
        views: PositiveInt = 2,
        captions: PositiveInt = 1,
        drawings: Literal["same", "different"] = "same",
        captions_from: Literal["name", "any"] = "any",
        languages: tuple[Language, ...] = (),
        shuffled: bool = False,
        limit: int | str | None = None,
        noise: str | float | None = None,
        path: Path | None = None,
    ) -> None:
        self.modalities: Mapping[str, Modality] = {
            "image": Modality("image", count=views),
            "text": Modality("text", count=captions),
            **dict.fromkeys([*languages, *([SHUFFLED] if shuffled else [])], Modality("text")),
        }
        self.views, self.captions = views, captions
        self.drawings, self.captions_from = drawings, captions_from
        self.path = path or PACKAGED
        concepts = _read(self.path / "concepts.parquet", ["concept", "texts", "names", *TARGETS])
        self._index = {key: index for index, key in enumerate(concepts["concept"])}
        self._texts: list[list[str]] = concepts["texts"]
        self._names = {language: [names[language] for names in concepts["names"]] for language in languages}
        self.labels = TARGETS
        self.classes = {"group": _groups(concepts), "subgroup": _subgroups(concepts)}
        self._targets = {
            target: torch.tensor([self.classes[target].names.index(name) for name in concepts[target]])
            for target in TARGETS
        }
        self.limit = Limit.parse(limit)
        self.noise = _parse_noise(noise)
        self._all = self._load("train")
        self.draw_limit(0)

    def draw_limit(self, seed: int) -> None:
        """Choose the concepts that `limit` leaves, and what `noise` tells wrongly, by the run's seed: before the first
        sample is read.
        """
        self._images, self._concept = self._all
        if self.limit:
            kept = self.limit.keep(np.array(self._concept), seed).tolist()
            self._images, self._concept = self._images.take(kept), [self._concept[row] for row in kept]
        self._siblings: dict[int, list[int]] = {}
        for drawing, concept in enumerate(self._concept):
            self._siblings.setdefault(concept, []).append(drawing)
        self._concepts = list(self._siblings)
        self._told = self._tell_wrongly(seed)

    def _tell_wrongly(self, seed: int) -> list[int]:
        """Give the concept that each drawing's texts are of: its own, but of a share of the drawings another one."""
        told = list(self._concept)
        if self.noise is None:
            return told
        if len(self._concepts) < 2:
            raise ValueError("noise: there is one concept, and no text of another: leave it out, or raise limit")
        rng = np.random.default_rng(seed_for(seed, "noise"))
        place = {concept: number for number, concept in enumerate(self._concepts)}
        for row in rng.permutation(len(told))[: round(self.noise.percent / 100 * len(told))].tolist():
            step = 1 + rng.integers(len(place) - 1)
            told[row] = self._concepts[(place[told[row]] + step) % len(place)]
        return told

    def __len__(self) -> int:
        """Count the training drawings: each is the anchor of one sample an epoch."""
        return len(self._images)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Give the sample of training drawing `index`, a pure function of both arguments.

        Whole orders are drawn, whatever is used of them: arms with other numbers of views or captions see the same
        first ones.
        """
        concept = self._concept[index]
        texts, siblings = self._texts[self._told[index]], self._siblings[concept]
        order = rng.permutation(len(texts)).tolist()
        if self.captions_from == "name":  # a concept's texts begin with its name
            order = sorted(order, key=bool)
        drawings = [index]
        if self.drawings == "different":
            drawings += [d for d in rng.permutation(siblings).tolist() if d != index]
        images = [self._images[d] for d in drawings[: self.views]]
        items: dict[str, list[Any]] = {
            "image": list(islice(cycle(images), self.views)),
            "text": [texts[i] for i in order[: self.captions]],
            **{language: [names[concept]] for language, names in self._names.items()},
        }
        if SHUFFLED in self.modalities:
            items[SHUFFLED] = [self._text_of_another(concept, rng)]
        return Sample(items, concept)

    def _text_of_another(self, concept: int, rng: np.random.Generator) -> str:
        others = len(self._concepts) - 1
        if not others:
            raise ValueError("shuffled: there is one concept, and no text of another: leave it out, or raise limit")
        place = self._concepts.index(concept)
        texts = self._texts[self._concepts[(place + 1 + rng.integers(others)) % len(self._concepts)]]
        return texts[0 if self.captions_from == "name" else rng.integers(len(texts))]

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        """Give endless batches from optimizer step `start` on."""
        return feed.load(self, start)

    def split(self, name: str) -> Split:
        """Give all drawings of a split and all texts of its concepts, each concept's name first; other languages have
        names only.

        `validation` and `test` are concepts that training never sees, `style_a` and `style_b` training concepts in the
        styles of vendors that training never sees. Raises ValueError naming the splits for any other name.
        """
        self.check_split(name)
        images, concepts = self._load(name)
        ids = torch.tensor(concepts)
        present = sorted(set(concepts))
        texts = [self._texts[concept] for concept in present]
        concept_ids = torch.tensor(present)
        text_ids = concept_ids.repeat_interleave(torch.tensor([len(t) for t in texts]))
        names = Items([own[0] for own in texts], concept_ids, self._targets_of(concept_ids))
        shuffled = {SHUFFLED: names} if SHUFFLED in self.modalities else {}
        return Split(
            {
                "image": Items(images, ids, self._targets_of(ids)),
                "text": Items(list(chain.from_iterable(texts)), text_ids, self._targets_of(text_ids)),
                **{
                    language: Items([names[i] for i in present], concept_ids, self._targets_of(concept_ids))
                    for language, names in self._names.items()
                },
                **shuffled,
            },
            self.classes,
        )

    def check_split(self, name: str) -> None:
        if name not in FILES:
            raise ValueError(f"the emoji data has no split '{name}' (known: {', '.join(FILES)})")

    def _targets_of(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {target: values[ids] for target, values in self._targets.items()}

    def _load(self, split: str) -> tuple[Drawings, list[int]]:
        """Load the drawings of a split and the concept of each."""
        path = self.path / FILES[split]
        rows = _read(path, ["image", "concept"])
        unknown = set(rows["concept"]) - set(self._index)
        if unknown:
            raise ValueError(
                f"{path}: {len(unknown)} of its concepts are not in concepts.parquet: the files are of two builds; "
                f"build the set again with `wb data build emoji` and give its folder as `path`"
            )
        return Drawings(rows["image"]), [self._index[key] for key in rows["concept"]]


def _parse_noise(value: str | float | None) -> Share | None:
    """Read '40 %'; None stays None. Raises ValueError for anything else, for a share of none and for one of all."""
    if value is None:
        return None
    try:
        share = Share.parse(value)
    except ValueError:  # which speaks of splits
        share = None
    if share is None:
        raise ValueError(
            f"noise: {value!r}: write the share of the drawings that are told wrongly, between 0 and 100 %"
        )
    return share


class Drawings(Sequence[Image.Image]):
    """Encoded pictures, decoded on access: a worker process copies 10 MB, not 120."""

    def __init__(self, encoded: list[bytes]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def take(self, rows: Sequence[int]) -> Drawings:
        """Choose pictures, still encoded."""
        return Drawings([self._encoded[row] for row in rows])

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Drawings: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Drawings:
        """Decode one picture to RGB, or give the pictures of a slice, still encoded."""
        if isinstance(index, slice):
            return Drawings(self._encoded[index])
        # naming the format saves trying the decoders of all others: 0.23 ms instead of 0.4
        return Image.open(io.BytesIO(self._encoded[index]), formats=("WEBP",)).convert("RGB")


def _read(path: Path, columns: list[str]) -> dict[str, list]:
    """Read columns of a parquet file, checked against its checksums. Raises ValueError with the path and the remedy."""
    try:
        # not pq.read_table, which imports pandas
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns).select(columns).to_pydict()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): reinstall the package, or build the set again with "
            f"`wb data build emoji` and give its folder as `path`"
        ) from None


def _groups(concepts: dict[str, list]) -> Classes:
    """Name each group in words, prompted by its own name and its subgroups' ("animal mammal", "food fruit")."""
    members: dict[str, set[str]] = {}
    for group, subgroup in zip(concepts["group"], concepts["subgroup"], strict=True):
        members.setdefault(group, set()).add(subgroup)
    names = tuple(sorted(members))
    return Classes(names, tuple((_words(g), *map(_words, sorted(members[g]))) for g in names))


def _subgroups(concepts: dict[str, list]) -> Classes:
    names = tuple(sorted(set(concepts["subgroup"])))
    return Classes(names, tuple((_words(name),) for name in names))


def _words(key: str) -> str:
    return key.replace("-", " ")
