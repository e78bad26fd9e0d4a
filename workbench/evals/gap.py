"""The modality gap: how far apart two modalities lie on the sphere, measured on matched pairs.

The trap: the temperature moves every number here (fine-tuning at scale 1 ... 100 moves L2M from .24 to 1.00),
so the objective's scale is reported beside them: compare gaps at matched scale. `probe_accuracy` saturates at an
L2M near .46 and tells models apart only near 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from workbench.scoring.examples import Examples, one_class_of_each, partners
from workbench.scoring.sides import compared, refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.seeds import generator, seed_for
from workbench.types import Context, Data, Objective

__all__ = ["Gap"]

_ROWS = 1024  # rows of an n x n matrix that exist at once

Points = Float64[Tensor, "n d"]
"""unit rows; row i of x and row i of y are a pair"""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Gap, alignment, uniformity and mixing of two modalities, with the scale that moves them.

    Every x item is paired with the first y item of its own sample, else with the first of its id: a pair is what a
    training saw together, also where samples share an id. Yields `l2m`, `distribution_gap`, `l2i`, `rmg`,
    `probe_accuracy`, `alignment`, `uniformity_{x}`, `uniformity_{y}`, `mixing`, `rankme_{x}`, `rankme_{y}`, with a
    `label` `v_measure`, `scale` where the objective has one, and `unpaired`, the number of x items without a y item,
    where there are any.

    Args:
        x: one side; of a modality that is trained through a second head or a fusion alone, that side
        y: the other; of several items of one sample the first is used
        split: evaluation split of the data set
        neighbours: how many nearest items `mixing` looks at
        label: classes of x, as the data set names them, that clusters of both modalities are compared with
        max_pairs: larger splits are sampled down to so many pairs, by the run's seed

    Raises ValueError when a side does not fit the split, there are too few pairs, or x has no such classes.
    """

    x: str = "image"
    y: str = "text"
    split: str = "validation"
    neighbours: PositiveInt = 10
    max_pairs: PositiveInt = 2000
    label: str | None = None

    def check(self, objective: Objective, data: Data) -> None:
        sides = compared(objective, self.x, self.y)
        refuse_untrained(objective, *sides)
        refuse_missing_splits(data, self.split)
        if sides[0] == sides[1]:
            raise ValueError(f"x and y are both '{self.x}', which has no gap to itself: name another side")
        if self.max_pairs < self._needed:
            raise ValueError(f"max_pairs={self.max_pairs} with neighbours={self.neighbours} needs {self._needed} pairs")
        if self.label:
            refuse_missing_label(data, self.label)

    @property
    def _needed(self) -> int:
        """Count the pairs among which a point has so many neighbours, and a regression something to learn."""
        return max(2, self.neighbours // 2 + 1)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` yields."""
        of_each = [f"{fact}_{side}" for fact in ("uniformity", "rankme") for side in (self.x, self.y)]
        more = [*(["v_measure"] if self.label else []), *([] if objective.scale() is None else ["scale"])]
        always = ["l2m", "distribution_gap", "l2i", "rmg", "probe_accuracy", "alignment", "mixing"]
        return [*always, *of_each, *more, "unpaired"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        pairs = self._pairs(context)
        x, y = (side.embed(context).z[:, 0].double() for side in pairs)
        yield "l2m", l2m(x, y)
        yield "distribution_gap", distribution_gap(x, y)
        yield "l2i", l2i(x, y)
        yield "rmg", rmg(x, y)
        yield "probe_accuracy", probe_accuracy(x, y, context.seed)
        yield "alignment", alignment(x, y)
        yield f"uniformity_{self.x}", uniformity(x)
        yield f"uniformity_{self.y}", uniformity(y)
        yield "mixing", mixing(x, y, self.neighbours)
        yield f"rankme_{self.x}", rankme(x)
        yield f"rankme_{self.y}", rankme(y)
        if self.label:
            yield "v_measure", v_measure(x, y, self._classes(pairs[0]), context.seed)
        if (scale := context.objective.scale()) is not None:
            yield "scale", scale.item()
        if pairs[0].left_out:
            yield "unpaired", pairs[0].left_out

    def _pairs(self, context: Context) -> tuple[Examples, Examples]:
        split = context.data.split(self.split)
        x, y = (Examples.of(split, side) for side in compared(context.objective, self.x, self.y))
        rows = torch.isin(x.ids, y.ids).nonzero().squeeze(1)
        usable, needed = min(len(rows), self.max_pairs), self._needed
        if usable < needed:
            raise ValueError(
                f"{usable} pairs of {self.x} and {self.y} (split '{self.split}' has {len(rows)}, max_pairs is "
                f"{self.max_pairs}), {needed} are needed: take a larger split, raise max_pairs or lower neighbours"
            )
        order = torch.randperm(len(rows), generator=generator(context.seed, "gap"))
        unpaired = x.left_out + len(x.ids) - len(rows)
        rows = rows[order[: self.max_pairs].sort().values]
        return replace(x.take(rows), left_out=unpaired), y.take(partners(x, y, rows))

    def _classes(self, x: Examples) -> Int64[Tensor, " n"]:
        """Find the classes of the pairs by those of their x items; -1 where unknown."""
        if self.label not in x.targets:
            have = ", ".join(x.targets) or "none"
            raise ValueError(
                f"items of {self.x} in split '{self.split}' have no label '{self.label}': they have {have}"
            )
        return one_class_of_each(x.targets[self.label], self.label)


def l2m(x: Points, y: Points) -> float:
    """Measure the distance between the two means (Liang et al. 2022, arXiv 2203.02053)."""
    return (x.mean(0) - y.mean(0)).norm().item()


def distribution_gap(x: Points, y: Points) -> float:
    """Measure how much the modalities still differ in the direction of their means when these are the same.

    It is the Wasserstein-1 distance of their coordinates along the line through both means, each taken from its mean:
    for as many points on both sides, the mean distance of the sorted ones. An offset moves `l2m` and not this.
    """
    towards = F.normalize(x.mean(0) - y.mean(0), dim=0)
    along = [((z - z.mean(0)) @ towards).sort().values for z in (x, y)]
    return (along[0] - along[1]).abs().mean().item()


def rankme(z: Points) -> float:
    """Compute exp of the entropy of the normalised singular values: an effective number of dimensions (RankMe,
    Garrido et al. 2023, arXiv 2210.02885)."""
    share = torch.linalg.svdvals(z)
    share = share / share.sum()
    return torch.special.entr(share).sum().exp().item()


def v_measure(x: Points, y: Points, classes: Int64[Tensor, " n"], seed: int) -> float:
    """Cluster both modalities together into as many clusters as there are classes, by k-means, and compare with these.

    1 when clusters are classes; low when they are modalities (the V-measure of Rosenberg and Hirschberg 2007).
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    known = classes >= 0
    labels = classes[known].repeat(2).numpy()
    random_state = seed_for(seed, "v-measure") % 2**32
    means = KMeans(len(np.unique(labels)), n_init=5, random_state=random_state)  # type: ignore[arg-type]
    return float(v_measure_score(labels, means.fit_predict(torch.cat([x[known], y[known]]).numpy())))


def l2i(x: Points, y: Points) -> float:
    """Average the distance between the two of a pair."""
    return (x - y).norm(dim=1).mean().item()


def rmg(x: Points, y: Points) -> float:
    """Compare the distance d(c) = (1 - c) / 2 within pairs with that within the modalities: the relative modality gap.

    In 0..1; 0 when pairs coincide, 1/2 when a pair is as far apart as strangers of one modality are. Undefined
    when all points are one.
    """

    def distance_of_strangers(z: Points) -> Tensor:
        n = len(z)
        cosine = (z.sum(0).square().sum() - z.square().sum()) / (n * (n - 1))  # mean over i != j, in n d
        return (1 - cosine) / 2

    paired = (1 - (x * y).sum(1).mean()) / 2
    strangers = (distance_of_strangers(x) + distance_of_strangers(y)) / 2
    return (paired / (paired + strangers)).item()


def probe_accuracy(x: Points, y: Points, seed: int) -> float:
    """Fit a logistic regression that tells x from y, and return its accuracy on a fifth that it was not fitted on.

    A pair stays together: with its partner in the training set under the other label, a test point is drawn to the
    wrong answer, and 2000 aligned pairs without a gap scored .25 in 512 dimensions.
    """
    from sklearn.linear_model import LogisticRegression  # it takes a second, which `wb check` does not pay

    order = np.random.default_rng(seed).permutation(len(x))
    test, train = np.split(order, [math.ceil(len(x) / 5)])

    def labelled(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return torch.cat([x[pairs], y[pairs]]).numpy(), np.repeat([0, 1], len(pairs))

    return float(LogisticRegression(max_iter=1000).fit(*labelled(train)).score(*labelled(test)))


def alignment(x: Points, y: Points) -> float:
    """Average the squared distance between the two of a pair (Wang and Isola 2020, arXiv 2005.10242)."""
    return (x - y).square().sum(1).mean().item()


def uniformity(z: Points) -> float:
    """Compute log mean exp(-2 |z_i - z_j|^2) over i != j (Wang and Isola 2020): 0 when all points are one, lower when
    even."""
    n, total = len(z), 0.0
    for start in range(0, n, _ROWS):
        kernel = torch.exp(-2 * torch.cdist(z[start : start + _ROWS], z).square())
        kernel.diagonal(start).zero_()
        total += kernel.sum().item()
    return math.log(total / (n * (n - 1)))


def mixing(x: Points, y: Points, neighbours: int) -> float:
    """Compute the share of the other modality among the nearest of both, self excluded: about 1/2 if mixed, 0 if
    apart."""
    z = torch.cat([x, y])
    modality = torch.arange(len(z)) >= len(x)
    crossed = 0
    for start in range(0, len(z), _ROWS):
        cosine = z[start : start + _ROWS] @ z.T
        cosine.diagonal(start).fill_(-torch.inf)
        nearest = cosine.topk(neighbours).indices
        crossed += (modality[nearest] != modality[start : start + _ROWS, None]).sum().item()
    return crossed / (len(z) * neighbours)
