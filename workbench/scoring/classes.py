"""Answers of a classifier, class by class: how many of each are right, and which classes are taken for which.

The trap: a matrix of all classes by all classes is a gigabyte at ten thousand of them. What is kept here are the pairs
that occur, of which there are no more than items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from workbench.scoring.ranking import scored, take
from workbench.types import ClassTable, Split, Views

SAID = 5
"""confusions that are told in words"""


@dataclass(frozen=True)
class Confusion:
    """Items of one class that were called another."""

    true: str
    said: str
    count: int
    support: int
    """items of the true class"""

    def __str__(self) -> str:
        return f"{self.count} of {self.support} items of '{self.true}' were called '{self.said}'"


def table_of_answers(names: Sequence[str], labels: Int64[Tensor, " n"], said: Int64[Tensor, " n"]) -> ClassTable:
    """Count the answers on items of one class each; a share of nothing is 0, as scikit-learn has it."""
    c = len(names)
    right = labels[labels == said].bincount(minlength=c)
    pair, count = (labels * c + said).unique(return_counts=True)
    pairs = torch.stack([pair // c, pair % c, count], 1)
    return ClassTable(tuple(names), _shares(right, said.bincount(minlength=c), labels.bincount(minlength=c)), pairs)


def table_of_sets(names: Sequence[str], labels: Bool[Tensor, "n c"], said: Bool[Tensor, "n c"]) -> ClassTable:
    """Count the answers on items of several classes each."""
    return ClassTable(tuple(names), _shares((labels & said).sum(0), said.sum(0), labels.sum(0)))


def names_of(split: Split, label: str, known: int) -> tuple[str, ...]:
    """Name so many classes of a label: as the split does, or by their numbers where it does not say."""
    names = split.classes[label].names if label in split.classes else ()
    return tuple(names) + tuple(map(str, range(len(names), known)))


def confusions(table: ClassTable, most: int | None = None) -> list[Confusion]:
    """List what was taken for what, the largest number first; of equal ones in the order of the classes."""
    if table.pairs is None:
        return []
    wrong = table.pairs[table.pairs[:, 0] != table.pairs[:, 1]]
    order = wrong[:, 2].sort(descending=True, stable=True).indices[:most]
    support = table.columns["support"]
    return [
        Confusion(table.names[true], table.names[said], count, int(support[true]))
        for true, said, count in wrong[order].tolist()
    ]


def say_confusions(table: ClassTable) -> list[str]:
    """Say the largest confusions in words, or that there are none."""
    if table.pairs is None:
        return []
    found = confusions(table)
    left = len(found) - SAID
    more = [f"and {left} more pairs of classes"] if left > 0 else []
    return [*map(str, found[:SAID]), *more] if found else ["no item was called another class"]


def rows(table: ClassTable) -> Iterator[dict[str, str | float]]:
    """Give each class as {class, precision, recall, ...}."""
    for at, name in enumerate(table.names):
        yield {"class": name, **{column: values[at].item() for column, values in table.columns.items()}}


def _shares(right: Int64[Tensor, " c"], said: Int64[Tensor, " c"], support: Int64[Tensor, " c"]) -> dict[str, Tensor]:
    def share(part: Tensor, whole: Tensor) -> Float64[Tensor, " c"]:
        return torch.where(whole > 0, part.double() / whole.clamp(min=1), 0.0)

    return {
        "precision": share(right, said),
        "recall": share(right, support),
        "f1": share(2 * right, said + support),
        "support": support,
    }


@dataclass(frozen=True)
class Answers:
    """What a classifier says of n items, each of a class that is known."""

    labels: Int64[Tensor, " n"]
    said: Int64[Tensor, " n"]
    """the class of the highest score, of equal ones the lowest class"""
    ranks: Int64[Tensor, " n"]
    """the place of the right class, from 1; of equal scores the lower class stands above"""

    def facts(self, known: int) -> Iterator[tuple[str, float]]:
        """Yield accuracy, top5 (with more than five), balanced_accuracy, chance and majority, where an answer is one of
        so many classes."""
        counts = self.labels.bincount()
        recalls = self.labels.bincount(self.ranks == 1, len(counts)) / counts  # nan for classes that no item has
        yield "accuracy", (self.ranks == 1).double().mean().item()
        if known > 5:
            yield "top5", (self.ranks <= 5).double().mean().item()
        yield "balanced_accuracy", recalls.nanmean().item()
        yield "chance", 1 / known
        yield "majority", counts.max().item() / len(self.labels)


FACTS = ("accuracy", "top5", "balanced_accuracy", "chance", "majority", "unlabelled")
"""the names that answers may yield, and the number of the items that have none"""


def answer(score: Float[Tensor, "n c"], labels: Int64[Tensor, " n"]) -> Answers:
    """Read scores of classes as answers."""
    own = score.gather(1, labels[:, None])
    lower = torch.arange(score.shape[1]) < labels[:, None]
    ranks = 1 + ((score > own) | ((score == own) & lower)).sum(1)
    return Answers(labels, score.argmax(1), ranks)  # the first of equal ones


def join(parts: Sequence[Answers]) -> Answers:
    """Put the answers on consecutive chunks of items behind one another."""
    return Answers(*(torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "said", "ranks")))


@torch.no_grad()
def classify(
    score: Callable[[Views, Views], Tensor],
    items: Views,
    classes: Views,
    labels: Int64[Tensor, " n"],
    chunk: int = 1024,
) -> Answers:
    """Score a chunk of items at a time with all classes. Raises ValueError when a score is NaN."""
    chunks = zip(scored(score, items, classes, chunk), labels.split(chunk), strict=True)
    return join([answer(scores, right) for scores, right in chunks])


@torch.no_grad()
def average_precisions(
    score: Callable[[Views, Views], Tensor], items: Views, classes: Views, labels: Bool[Tensor, "n c"], chunk: int = 64
) -> Float64[Tensor, " c"]:
    """Rank all items by each class's score and average the precisions at the places of its own items.

    A class without an item gets 0, as CLIP_benchmark has it; of equal scores the earlier item ranks above. So many
    classes are scored at a time. Raises ValueError when a score is NaN.
    """
    place, found = torch.arange(1, len(labels) + 1).double()[:, None], []
    for begin in range(0, labels.shape[1], chunk):
        some = slice(begin, begin + chunk)
        scores = torch.cat(list(scored(score, items, take(classes, some), 1024)))
        order = scores.sort(dim=0, descending=True, stable=True).indices
        hits = labels[:, some].gather(0, order).double()
        found.append((hits.cumsum(0) / place * hits).sum(0) / hits.sum(0).clamp(min=1))
    return torch.cat(found)


def chance_of_average_precision(positives: Int64[Tensor, " c"], n: int) -> Float64[Tensor, " c"]:
    """Compute the expected average precision of n items in random order, p of them right; 0 where p is 0.

    A place r holds a right one with probability p / n, and then (r - 1)(p - 1) / (n - 1) more are expected above it, so
    the mean is ((1 - a) H_n + a n) / n with a = (p - 1) / (n - 1) and H_n = 1 + 1/2 + ... + 1/n.
    """
    harmonic = (1 / torch.arange(1, n + 1).double()).sum()
    a = (positives.double() - 1) / max(n - 1, 1)
    return torch.where(positives > 0, ((1 - a) * harmonic + a * n) / n, 0.0)
