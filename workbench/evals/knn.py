"""k nearest neighbours: the classes of a frozen embedding's neighbours vote, and nothing is fitted.

The trap: plain votes of many neighbours let a common class win everywhere; a vote is weighted by exp(cosine / T).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from workbench.scoring.examples import Examples, one_class_of_each
from workbench.scoring.sides import refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.types import Context, Data, Objective, Side

__all__ = ["KNN"]


@dataclass(frozen=True, kw_only=True)
class KNN:
    """Accuracy of a weighted vote of the k nearest training items (Wu et al. 2018, arXiv 1805.01978, as DINO has it).

    Yields `accuracy`, `top5` (with more than five classes), `balanced_accuracy` (mean recall of the classes present),
    `chance` (1 / classes) and `majority` (share of the commonest class of the items that are classified). Items
    labelled -1 are left out; of equal votes the lower class wins, and of equal cosines the earlier item votes.

    Args:
        label: which classes, as the data set names them
        on: side whose embeddings are compared
        train: split whose items vote
        split: split that is classified
        k: how many vote; all of a smaller training split
        temperature: T of a vote's weight exp(cosine / T)
        chunk: items classified at once; bounds the memory

    Raises ValueError when a split lacks the side or the label, the label has one class, or an embedding is NaN.
    """

    label: str = "group"
    on: str = "image"
    train: str = "train"
    split: str = "validation"
    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07
    chunk: PositiveInt = 1024

    def __post_init__(self) -> None:
        if self.train == self.split:
            raise ValueError(f"knn: split and train are both '{self.split}', and every item would find itself")

    def check(self, objective: Objective, data: Data) -> None:
        refuse_untrained(objective, Side.parse(self.on))
        refuse_missing_splits(data, self.train, self.split)
        refuse_missing_label(data, self.label)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield; `top5` depends on the number of classes."""
        return ["accuracy", "top5", "balanced_accuracy", "chance", "majority"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        (bank, voting), (items, labels) = (self._embedded(context, split) for split in (self.train, self.split))
        classes = int(max(voting.max(), labels.max())) + 1
        if len(voting.unique()) < 2:
            raise ValueError(f"knn: split '{self.train}' has one class of '{self.label}', two are needed")
        ranks = torch.cat([
            rank_of_label(votes(x, bank, voting, self.k, self.temperature, classes), y)
            for x, y in zip(items.split(self.chunk), labels.split(self.chunk), strict=True)
        ])  # fmt: skip
        present, counts = voting.unique(), labels.bincount(minlength=classes)
        recalls = labels.bincount(ranks == 1, classes) / counts  # nan for classes that no item has
        yield "accuracy", (ranks == 1).double().mean().item()
        if len(present) > 5:
            yield "top5", (ranks <= 5).double().mean().item()
        yield "balanced_accuracy", recalls.nanmean().item()
        yield "chance", 1 / len(present)
        yield "majority", counts.max().item() / len(labels)

    def _embedded(self, context: Context, split: str) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]]:
        """Embed the items of a split that have a label."""
        examples = Examples.of(context.data.split(split), Side.parse(self.on))
        if self.label not in examples.targets:
            have = ", ".join(examples.targets) or "none"
            raise ValueError(f"knn: split '{split}' has no label '{self.label}' of {self.on}: it has {have}")
        labels = one_class_of_each(examples.targets[self.label], self.label)
        known = (labels >= 0).nonzero().squeeze(1)
        if not len(known):
            raise ValueError(f"knn: no item of split '{split}' has a label of '{self.label}': all are -1")
        z = examples.take(known).embed(context).z[:, 0]
        if z.isnan().any():
            raise ValueError(
                f"knn: embeddings of split '{split}' contain NaN: check that the model's weights are finite"
            )
        return z, labels[known]


def votes(
    x: Float[Tensor, "m d"],
    bank: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    k: int,
    temperature: float,
    classes: int,
) -> Float[Tensor, "m c"]:
    """Add up exp(cosine / T) of the k nearest rows of the bank, class by class; the nearest one's is 1."""
    nearest = (x @ bank.T).sort(dim=1, descending=True, stable=True)
    cosine, at = nearest.values[:, :k].double(), nearest.indices[:, :k]
    # less the largest, so that a small temperature does not overflow: it changes no ratio of votes
    weight = ((cosine - cosine[:, :1]) / temperature).exp()
    return torch.zeros(len(x), classes, dtype=weight.dtype).scatter_add_(1, labels[at], weight)


def rank_of_label(score: Float[Tensor, "m c"], labels: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
    """Count from 1 at which place the label's class stands; of equal scores the lower class stands above."""
    own = score.gather(1, labels[:, None])
    lower = torch.arange(score.shape[1]) < labels[:, None]
    return 1 + ((score > own) | ((score == own) & lower)).sum(1)
