"""The least loss that a batch allows, and the loss of knowing nothing: between the two a training moves.

A term cannot fall to 0 where samples repeat. Rows with equal inputs have equal embeddings, whatever the model is, so a
critic is a table S(A, B) over the classes A and B of equal inputs of its two sides. Let t_ij be the weights of the
positives in the loss, pi(A, B) their sum over the rows of A and the columns of B, pi(A) its sum over B, and m_B the
number of columns in B. Then each direction of InfoNCE is a cross-entropy, and its least value, at p(B | A) = pi(A, B) /
pi(A), each column of B having an equal part of it, is

    L* = - sum_AB pi(A, B) ln( pi(A, B) / (pi(A) m_B) ).

With B samples that all differ it is 0; where one side is the same in all it is ln B, the loss of knowing nothing. A
sigmoid judges every pair by itself: a cell of N pairs, a share p of them positive, costs at least N h(p), h being the
binary entropy in nats.

The trap: both directions share one critic, so this bounds the loss from below; it is reached where every sample has as
many positives as its partners, as with ids that are all different.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch import Tensor

from workbench.model import all_combinations, zipped
from workbench.terms import Term, Terms
from workbench.types import Batch, Objective, Pool, Side, View, Views


class Bounds(NamedTuple):
    """Between what a loss of a batch moves, in nats; None where it is not known."""

    chance: float | None
    """with one embedding for everything"""
    floor: float | None
    """with the best embeddings that there can be"""


class Rows(NamedTuple):
    """The rows of one side of a contrast: their classes of equal inputs, and their ids."""

    classes: Int64[ndarray, " m"]
    ids: Int64[ndarray, " m"]


def classes_of(batch: Batch) -> dict[str, Int64[Tensor, "b k"]]:
    """Number the classes of equal inputs of each modality: items of one class are bit for bit the same."""
    found: dict[str, Int64[Tensor, "b k"]] = {}
    for name, x in batch.inputs.items():
        known: dict[bytes, int] = {}
        rows = x.cpu().flatten(0, 1).contiguous()
        keys = (row.view(-1).view(torch.uint8).numpy().tobytes() for row in rows.unbind(0))
        found[name] = torch.tensor([known.setdefault(key, len(known)) for key in keys]).view(x.shape[:2])
    return found


def bounds_of(objective: Objective, views: Views, batch: Batch, step: int = 0, seed: int = 0) -> dict[str, Bounds]:
    """Give the bounds of every loss that an objective shows of this batch, by its name, and of their sum as "total".

    `views` are embeddings of the batch, of which only the shapes are read, and which rows exist.
    """
    same = {side: View(_constant(view.z), view.valid) for side, view in views.items()}
    with torch.no_grad():
        told = objective(same, Pool(same, batch.ids, step=step, seed=seed))
    chances = {name.removeprefix("loss/"): float(x) for name, x in told.logs.items() if name.startswith("loss/")}
    batch = batch.to(torch.device("cpu"))
    classes = classes_of(batch)
    if isinstance(objective, Terms):
        found = {name: _of_term(term, classes, batch, chances[name]) for name, term in objective.named.items()}
        weights = [objective.named[name].weight for name in found]
        chance = _sum(weights, [each.chance for each in found.values()])
        return found | {"total": Bounds(chance, _sum(weights, [each.floor for each in found.values()]))}
    known = 0.0 if _are_distinct(classes, batch) else None
    return {name: Bounds(value, known) for name, value in (chances | {"total": float(told.total)}).items()}


def _constant(z: Tensor) -> Tensor:
    """Make the same unit vector of every row."""
    same = torch.zeros_like(z)
    same[..., 0] = 1
    return same


def _sum(weights: Sequence[float], values: Sequence[float | None]) -> float | None:
    """Add up what is known; None where something is not."""
    there = [value for value in values if value is not None]
    return math.fsum(w * x for w, x in zip(weights, there, strict=True)) if len(there) == len(values) else None


def _are_distinct(classes: Mapping[str, Tensor], batch: Batch) -> bool:
    """Whether no two samples of different ids have an equal item: then every objective here can fall to 0."""
    return all(
        not _crosses(Rows(known[batch.valid[name]].numpy(), _expand(batch, name)[batch.valid[name]].numpy()))
        for name, known in classes.items()
    )


def _expand(batch: Batch, name: str) -> Tensor:
    return batch.ids[:, None].expand(batch.valid[name].shape)


def _crosses(rows: Rows) -> bool:
    """Whether some class of equal inputs has rows of different ids."""
    pairs = np.unique(np.stack([rows.classes, rows.ids]), axis=1)
    return len(np.unique(pairs[0])) < pairs.shape[1]


def _of_term(term: Term, classes: Mapping[str, Tensor], batch: Batch, told: float) -> Bounds:
    """Give the bounds of one term; `told` is its loss with one embedding for everything."""
    if term.loss == "align_uniform":
        return Bounds(None, None)
    (a, there_a), (b, there_b) = (_rows(side, classes, batch.valid) for side in term.sides)
    ids = batch.ids[:, None]
    if not term.is_self and term.positives in (None, "pairwise"):
        parts: list[tuple[int, Bounds]] = []
        for v, t in product(range(a.shape[1]), range(b.shape[1])):
            both = there_a[:, v] & there_b[:, t]
            x, y = (Rows(side[both, at].numpy(), batch.ids[both].numpy()) for side, at in ((a, v), (b, t)))
            parts.append((int(both.sum()), _contrast(term, x, y, told)))
        rows = sum(count for count, _ in parts)
        shares = [count / rows if rows else 0.0 for count, _ in parts]
        floor = _sum(shares, [each.floor for _, each in parts])
        return Bounds(_sum(shares, [each.chance for _, each in parts]), floor)
    x, y = (
        Rows(side[there].numpy(), ids.expand(there.shape)[there].numpy())
        for side, there in ((a, there_a), (b, there_b))
    )
    return _contrast(term, x, y, told)


def _rows(side: Side, classes: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Number the classes of a side's rows [b, k], and tell which rows exist: two that are fused of equal items are
    equal."""
    if not side.fused:
        return classes[side.members[0]], valid[side.members[0]].cpu()
    combine = all_combinations if "all" in side.options else zipped
    views, present = combine([valid[m].cpu() for m in side.members])
    parts = [classes[m].gather(1, chosen) for m, chosen in zip(side.members, views, strict=True)]
    stacked = torch.stack(parts, -1)
    _, numbers = stacked.flatten(0, 1).unique(dim=0, return_inverse=True)
    return numbers.view(stacked.shape[:2]), torch.stack(present).all(0)


def _contrast(term: Term, x: Rows, y: Rows, told: float) -> Bounds:
    """Give the bounds of one contrast between rows that exist."""
    if term.loss == "sigmoid":
        return _sigmoid(x, y, term.is_self)
    counts = _count(x, y, term.is_self)
    averaged = term.positives == "mean" or (term.positives in (None, "pairwise") and not term.is_self)
    if not term.is_self and (averaged or counts.max(initial=0) <= 1):  # of one positive, every kind of mean is the same
        return Bounds(told, infonce_floor(x, y))
    if _crosses(x) or _crosses(y):
        return Bounds(told, None)
    there = counts[counts > 0]
    return Bounds(told, float(np.log(there).mean()) if averaged and len(there) else 0.0)


def _count(x: Rows, y: Rows, is_self: bool) -> Int64[ndarray, " m"]:
    """Count the positives of every row."""
    known, number = np.unique(y.ids, return_counts=True)
    if not len(known):
        return np.zeros(len(x.ids), np.int64)
    at = np.searchsorted(known, x.ids).clip(max=len(known) - 1)
    return np.where(known[at] == x.ids, number[at], 0) - is_self


def infonce_floor(x: Rows, y: Rows) -> float:
    """Compute the least value of symmetric InfoNCE, the mean over positives, between rows that exist."""
    return (_one_direction(x, y) + _one_direction(y, x)) / 2


def _one_direction(x: Rows, y: Rows) -> float:
    """Compute -sum pi(A, B) ln(pi(A, B) / (pi(A) m_B)) for rows x and columns y."""
    pairs = _pairs(x, y)
    if not len(pairs):
        return 0.0
    row, column = pairs.T
    counts = np.bincount(row, minlength=len(x.ids))
    cells, at = np.unique(np.stack([x.classes[row], y.classes[column]], 1), axis=0, return_inverse=True)
    weight = np.bincount(at.ravel(), 1.0 / counts[row] / (counts > 0).sum())
    a = np.unique(cells[:, 0], return_inverse=True)[1]
    columns = np.array([(y.classes == b).sum() for b in cells[:, 1].tolist()])
    return float(-(weight * np.log(weight / (np.bincount(a, weight)[a] * columns))).sum())


def _pairs(x: Rows, y: Rows) -> Int64[ndarray, "p 2"]:
    """List the pairs of a row and a column that have one id."""
    order = np.argsort(y.ids, kind="stable")
    low, high = (np.searchsorted(y.ids[order], x.ids, side) for side in ("left", "right"))
    row = np.repeat(np.arange(len(x.ids)), high - low)
    within = np.arange(len(row)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
    return np.stack([row, order[low[row] + within]], 1) if len(row) else np.empty((0, 2), np.int64)


def _sigmoid(x: Rows, y: Rows, is_self: bool) -> Bounds:
    """Give the bounds of the sigmoid loss, the sum over pairs divided by the rows; with one logit for all, and with one
    for every cell of equal pairs."""
    if not len(x.ids) or not len(y.ids):
        return Bounds(0.0, 0.0)
    pairs = _pairs(x, y)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]] if is_self else pairs
    every = len(x.ids) * len(y.ids) - (len(x.ids) if is_self else 0)
    row, column = pairs.T
    cells, positive = np.unique(np.stack([x.classes[row], y.classes[column]], 1), axis=0, return_counts=True)
    size = np.array([(x.classes == a).sum() * (y.classes == b).sum() for a, b in cells.tolist()], np.float64)
    if is_self:
        size -= np.array([(x.classes == a).sum() if a == b else 0 for a, b in cells.tolist()])
    floor = float((size * _entropy(positive / size)).sum()) if len(cells) else 0.0
    chance = float(every * _entropy(np.array([len(pairs) / every]))[0])
    return Bounds(chance / len(x.ids), floor / len(x.ids))


def _entropy(p: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Compute -p ln p - (1 - p) ln (1 - p), 0 at both ends."""
    q = np.clip(p, 1e-300, 1)
    r = np.clip(1 - p, 1e-300, 1)
    return -p * np.log(q) - (1 - p) * np.log(r)


def scale_floor(scale: float, rows: int, cosine: bool) -> float:
    """Compute the least InfoNCE over `rows` samples at a scale: logits between -s and s leave ln(1 + (n - 1) e^-d).

    The gap d between a positive and the mean of its negatives is at most 2 s; between unit rows that are each other's
    only positives it is at most s n / (n - 1), which a regular simplex reaches.
    """
    gap = scale * rows / (rows - 1) if cosine else 2 * scale
    return math.log1p((rows - 1) * math.exp(-gap))


__all__ = ["Bounds", "Rows", "bounds_of", "classes_of", "infonce_floor", "scale_floor"]
