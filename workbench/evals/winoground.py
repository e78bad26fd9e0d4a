"""Winoground: two images and two captions of the same words; which caption says which image?

Thrush et al. 2022, arXiv 2204.03162. The trap: the scores are of all four pairs at once, so the chance of `group` is
no product of the other two: of four scores in random order the two right ones are the highest in a sixth of all orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.scoring.sides import compared, refuse_untrained
from workbench.scoring.splits import refuse_missing_splits
from workbench.scoring.within_samples import embed_distinct, samples_of, score_pairs
from workbench.types import Context, Data, Objective, Split

__all__ = ["Winoground"]

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Winoground:
    """Text, image and group score: shares of the samples whose caption i belongs to image i, told in three ways.

    `text`: for each image its own caption scores above the other one. `image`: for each caption its own image scores
    above the other one. `group`: both. Every comparison is strict, a tie is a loss. Yields also `chance_text` and
    `chance_image` (1/4), `chance_group` (1/6), `samples`, their number, and `left_out`, the number of samples that lack
    one of the four, where there are any.

    Args:
        images: the two fields of pictures, as the data set names them
        captions: the two fields of texts, in the same order
        image: side that embeds the pictures
        text: side that embeds the texts
        split: evaluation split of the data set

    Raises ValueError when the split lacks a field, no sample is complete, or a score is NaN.
    """

    images: Pair = ("image_0", "image_1")
    captions: Pair = ("caption_0", "caption_1")
    image: str = "image"
    text: str = "text"
    split: str = "validation"

    def __post_init__(self) -> None:
        fields = (*self.images, *self.captions)
        if twice := [name for name in fields if fields.count(name) > 1]:
            raise ValueError(f"winoground: '{twice[0]}' stands twice among images and captions: name four fields")

    def check(self, objective: Objective, data: Data) -> None:
        sides = compared(objective, self.image, self.text)
        refuse_untrained(objective, *sides)
        for side in sides:
            if len(side.members) > 1:
                raise ValueError(f"side '{side}' fuses modalities, and a pair is of two single ones: name plain sides")
        refuse_missing_splits(data, self.split)
        if missing := [name for name in (*self.images, *self.captions) if name not in data.modalities]:
            have = ", ".join(data.modalities)
            raise ValueError(f"the data have no field {', '.join(missing)} (they have {have}): declare data.fields")

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield."""
        return [*CHANCES, *(f"chance_{name}" for name in CHANCES), "samples", "left_out"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        image, text = compared(context.objective, self.image, self.text)
        split = context.data.split(self.split)
        rows, left_out = self._complete(split)
        candidates, columns = embed_distinct(context, text, [split.items[name].raw for name in self.captions])
        images = [context.embed({image.members[0]: split.items[name].raw}, [image]) for name in self.images]
        s = [
            [
                score_pairs(context.objective.score, views, candidates, rows[shown], at[rows[said]])
                for said, at in zip(self.captions, columns, strict=True)
            ]
            for shown, views in zip(self.images, images, strict=True)
        ]
        found = scores(s)
        for name, right in found.items():
            yield name, right.double().mean().item()
        for name, chance in CHANCES.items():
            yield f"chance_{name}", chance
        yield "samples", len(found["group"])
        if left_out:
            yield "left_out", left_out

    def _complete(self, split: Split) -> tuple[dict[str, Tensor], int]:
        """Find in each of the four fields the first item of every sample that has all four; count the other samples."""
        samples = samples_of(split, [*self.images, *self.captions])
        first: dict[str, dict[int, int]] = {name: {} for name in samples}
        for name, known in samples.items():
            for row, sample in enumerate(known.tolist()):
                first[name].setdefault(sample, row)
        everywhere = set.intersection(*(set(rows) for rows in first.values()))
        there = set.union(*(set(rows) for rows in first.values()))
        if not everywhere:
            raise ValueError(f"no sample of split '{self.split}' has all of {', '.join(samples)}")
        chosen = sorted(everywhere)
        rows = {name: torch.tensor([rows[sample] for sample in chosen]) for name, rows in first.items()}
        return rows, len(there) - len(everywhere)


CHANCES = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}


def scores(s: list[list[Tensor]]) -> dict[str, Tensor]:
    """Tell of each sample whether it is right, bool [n], from s[i][j]: the scores [n] of image i with caption j."""
    text = (s[0][0] > s[0][1]) & (s[1][1] > s[1][0])
    image = (s[0][0] > s[1][0]) & (s[1][1] > s[0][1])
    return {"text": text, "image": image, "group": text & image}
