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

from workbench.scoring.classes import FACTS, answer, join, names_of, table_of_answers
from workbench.scoring.examples import Examples, one_class_of_each
from workbench.scoring.sides import refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.types import Context, Data, Objective, Side

__all__ = ["KNN"]


@dataclass(frozen=True, kw_only=True)
class KNN:
    """Accuracy of a weighted vote of the k nearest training items (Wu et al. 2018, arXiv 1805.01978, as DINO has it).

    Yields `accuracy`, `top5` (with more than five classes), `balanced_accuracy` (mean recall of the classes present),
    `chance` (1 / classes), `majority` (share of the commonest class of the items that are classified), and
    `unlabelled`, the number of items labelled -1, which are left out, where there are any. Of equal votes the lower
    class wins, and of equal cosines the earlier item votes.

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
        return list(FACTS)

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        (bank, voting, _), (items, labels, unlabelled) = (self._embedded(context, s) for s in (self.train, self.split))
        classes = int(max(voting.max(), labels.max())) + 1
        if len(voting.unique()) < 2:
            raise ValueError(f"knn: split '{self.train}' has one class of '{self.label}', two are needed")
        chunks = zip(items.split(self.chunk), labels.split(self.chunk), strict=True)
        answers = join([answer(votes(x, bank, voting, self.k, self.temperature, classes), y) for x, y in chunks])
        yield from answers.facts(len(voting.unique()))
        if unlabelled:
            yield "unlabelled", unlabelled
        names = names_of(context.data.split(self.split), self.label, classes)
        context.report("", table_of_answers(names, answers.labels, answers.said))

    def _embedded(self, context: Context, split: str) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"], int]:
        """Embed the items of a split that have a label; also count those that have none."""
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
        return z, labels[known], len(labels) - len(known)


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
