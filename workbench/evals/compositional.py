"""Compositional pairs: does a caption score above one that says the same words of other things, for the same image?

As SugarCrepe (Hsieh et al. 2023, arXiv 2306.14610) and ARO (Yuksekgonul et al. 2023, arXiv 2210.01936) ask it. The
trap: negatives that a model of language alone finds odd are told without any look at the image, so a number far above
chance is no proof of sight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Int64
from pydantic import BeforeValidator, Field
from torch import Tensor

from workbench.scoring.sides import compared, refuse_untrained
from workbench.scoring.splits import refuse_missing_splits
from workbench.scoring.within_samples import embed_distinct, samples_of, score_pairs
from workbench.types import Context, Data, Objective, Split

__all__ = ["Compositional"]

Names = Annotated[tuple[str, ...], BeforeValidator(lambda x: (x,) if isinstance(x, str) else x), Field(min_length=1)]


class Comparisons(NamedTuple):
    """Every caption beside every negative of its sample."""

    image: Int64[Tensor, " p"]
    caption: Int64[Tensor, " p"]
    negative: Int64[Tensor, " p"]
    """into all negatives, field after field"""


@dataclass(frozen=True, kw_only=True)
class Compositional:
    """Share of the captions that score above every negative of their sample: s(image, caption) > s(image, negative).

    A tie is a loss, so that a model which gives all texts one score gets 0. A sample has an image, one caption or
    several, and one negative or several; each of its captions counts once. Yields `accuracy`, `chance` (of n negatives
    1 / (n + 1), the mean over captions), `captions`, their number, and `left_out`, the number of samples that lack an
    image, a caption or a negative, where there are any.

    Args:
        image: side that is described
        text: side that embeds captions and negatives; its field holds the captions
        negative: field of texts that do not describe the image, or a list of such fields
        split: evaluation split of the data set

    Raises ValueError when the split lacks a field, no sample is complete, or a score is NaN.
    """

    image: str = "image"
    text: str = "text"
    negative: Names = ("negative",)
    split: str = "validation"

    def check(self, objective: Objective, data: Data) -> None:
        refuse_untrained(objective, *compared(objective, self.image, self.text))
        self._fields(objective)
        refuse_missing_splits(data, self.split)
        if missing := [name for name in self.negative if name not in data.modalities]:
            raise ValueError(
                f"the data have no field {', '.join(missing)} of negatives: declare it, as "
                f"data.fields={{{missing[0]}: {{kind: text, from: negative_caption}}}}, beside the other fields"
            )
        if wrong := [name for name in self.negative if data.modalities[name].kind != "text"]:
            raise ValueError(f"negative: '{wrong[0]}' is a field of kind {data.modalities[wrong[0]].kind}, not text")

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield."""
        return ["accuracy", "chance", "captions", "left_out"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        image, text = compared(context.objective, self.image, self.text)
        split, (shown, said) = context.data.split(self.split), self._fields(context.objective)
        pairs, left_out = compare(split, shown, said, self.negative)
        if not len(pairs.image):
            raise ValueError(
                f"no sample of split '{self.split}' has {shown}, {said} and {' or '.join(self.negative)} together"
            )
        texts = [split.items[said].raw, [each for name in self.negative for each in split.items[name].raw]]
        candidates, (captions, negatives) = embed_distinct(context, text, texts)
        images = context.embed({shown: split.items[shown].raw}, [image])
        right, wrong = (
            score_pairs(context.objective.score, images, candidates, pairs.image, columns)
            for columns in (captions[pairs.caption], negatives[pairs.negative])
        )
        asked, place, number = pairs.caption.unique(return_inverse=True, return_counts=True)
        beaten = torch.zeros(len(asked), dtype=torch.int64).index_add_(0, place, (right > wrong).long())
        yield "accuracy", (beaten == number).double().mean().item()
        yield "chance", (1 / (1 + number.double())).mean().item()
        yield "captions", len(asked)
        if left_out:
            yield "left_out", left_out

    def _fields(self, objective: Objective) -> tuple[str, str]:
        """Name the fields of images and captions. Raises ValueError for a side that is made of several."""
        sides = compared(objective, self.image, self.text)
        for side in sides:
            if len(side.members) > 1:
                raise ValueError(f"side '{side}' fuses modalities, and a pair is of two single ones: name plain sides")
        return sides[0].members[0], sides[1].members[0]


def compare(split: Split, image: str, caption: str, negatives: Sequence[str]) -> tuple[Comparisons, int]:
    """List every caption beside every negative of its sample, with the sample's first image; also count the samples
    without any."""
    samples = samples_of(split, [image, caption, *negatives])
    image_of: dict[int, int] = {}
    for row, sample in enumerate(samples[image].tolist()):
        image_of.setdefault(sample, row)
    negatives_of: dict[int, list[int]] = {}
    for row, sample in enumerate(torch.cat([samples[name] for name in negatives]).tolist()):
        negatives_of.setdefault(sample, []).append(row)
    found = [
        (image_of[sample], row, negative)
        for row, sample in enumerate(samples[caption].tolist())
        if sample in image_of
        for negative in negatives_of.get(sample, ())
    ]
    columns = torch.tensor(found, dtype=torch.int64).reshape(-1, 3).unbind(1)
    there = {sample for known in samples.values() for sample in known.tolist()}
    return Comparisons(*columns), len(there) - len(columns[0].unique())
