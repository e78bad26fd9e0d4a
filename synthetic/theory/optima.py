"""The least value each contrastive loss can have on a known distribution at a finite batch: L*_B.

The bound ln B - I is not it: a batch of B holds false negatives, which even the perfect critic pays for. That critic
is the density ratio r(x, y) = p(x, y) / (p(x) q(y)), q being the distribution of the negatives, and

    L*_B = E[ log(r(x, y_1) + ... + r(x, y_B)) - log r(x, y_1) ],    y_1 ~ p(y | x),  y_2 .. y_B ~ q  independent.

The logarithm of a sum over B candidates needs no enumeration and no sampling:

 1. log s = int_0^inf (e^-t - e^-ts) / t dt                                       (Frullani).
 2. Under the expectation a sum in the exponent factors: E e^-ts = -phi'(t) phi(t)^(B-1), where phi(t) = E_q e^-tr
    and -phi'(t) = E_q[r e^-tr] = E_p[e^-tr] is the positive's factor.
 3. With t = e^u the integrand is analytic in |Im u| < pi/2 and dies at both ends, so the trapezoidal rule with step h
    errs by about e^(-pi^2 / h): below double precision at h = 1/4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from synthetic.theory.joint import Joint
from synthetic.theory.presence import Rows, binomial

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64


class Optimum(NamedTuple):
    """The least value of a loss, and its value without information, in nats."""

    value: float
    """with the best critic: L*_B"""
    no_information: float
    """with a critic that tells nothing apart"""


def infonce_optimum(joint: Joint, a: tuple[str, ...], b: tuple[str, ...], batch: int, share: float = 1.0) -> Optimum:
    """Compute the optimum of InfoNCE between two groups of modalities, the average of its two directions.

    With `share` < 1 each sample of the batch has both groups with that probability, else it is in no row and column.
    Raises ValueError when `batch` < 2 or a group names no modality.
    """
    rows = Rows(batch, share)
    pair = joint.marginal(tuple(dict.fromkeys(a + b)))
    (x, p_x), (y, p_y) = pair.group(a), pair.group(b)
    forward = _one_direction(x, pair.probability, p_y[y], rows)
    backward = _one_direction(y, pair.probability, p_x[x], rows)
    return Optimum((forward + backward) / 2, rows.log_count)


def sigmoid_optimum(joint: Joint, a: tuple[str, ...], b: tuple[str, ...], batch: int, share: float = 1.0) -> Optimum:
    """Compute the optimum of the sigmoid loss of SigLIP (arXiv 2303.15343), summed over the pairs and divided by the
    rows; `share` as above.

    Raises ValueError when `batch` < 2 or a group names no modality.
    """
    rows = Rows(batch, share)
    if share == 0:
        return Optimum(0.0, 0.0)
    pair = joint.marginal(tuple(dict.fromkeys(a + b)))
    (x, p_x), (y, p_y) = pair.group(a), pair.group(b)
    p, independent = pair.probability, p_x[x] * p_y[y]
    odds = p / independent * rows.some / rows.negatives  # of "positive", for a pair of a batch: the logit is their log
    positive = rows.some * (p * np.log1p(1 / odds)).sum()
    negative = rows.negatives * (independent * np.log1p(odds)).sum()  # outside the support odds are 0: loss 0
    constant = rows.some * math.log1p(rows.negatives / rows.some)
    return Optimum(float(positive + negative), constant + rows.negatives * math.log1p(rows.some / rows.negatives))


def symile_optimum(joint: Joint, batch: int, share: float = 1.0) -> Optimum:
    """Compute the optimum of Symile (arXiv 2411.01053) with `n` negatives, averaged over the anchors: every modality in
    turn picks the true tuple of the others among B - 1 tuples whose members are drawn independently.

    Shuffles within a batch are not quite independent draws: about three candidates a row hold the anchor's own sample
    or a true pair. That is 1e-4 on XOR, but where pairs are dependent the loss ends higher: by .07 for three copies
    of one of 16 symbols at B = 256.

    Raises ValueError when `batch` < 2 or there are fewer than three modalities.
    """
    rows = Rows(batch, share)
    names = tuple(joint.codes)
    if len(names) < 3:
        raise ValueError(f"Symile contrasts at least 3 modalities, not {len(names)}: use InfoNCE between the two")
    groups = {m: joint.group((m,)) for m in names}
    alone = {m: p[value] for m, (value, p) in groups.items()}
    directions = [
        _one_direction(
            groups[anchor][0],
            joint.probability,
            np.prod([alone[m] for m in names if m != anchor], axis=0),
            rows,
        )
        for anchor in names
    ]
    return Optimum(sum(directions) / len(names), rows.log_count)


def ntxent_optimum(joint: Joint, group: tuple[str, ...], views: int, batch: int) -> Optimum:
    """Compute the optimum of NT-Xent of `views` noise-free views of a group of modalities: each view against another
    one and the views of all other samples. Equal codes cannot be told apart, and a perfect critic makes all else
    vanish: L* = E log(1 + views Bin(B - 1, p(x))).

    Raises ValueError when `batch` or `views` < 2, or the group names no modality.
    """
    if views < 2:
        raise ValueError(f"a side with {views} view has no other view to match: at least 2 are needed")
    others = Rows(batch).batch - 1
    log_sum = np.log1p(views * np.arange(batch))
    codes, number = np.unique(joint.group(group)[1].round(15), return_counts=True)
    value = sum(n * p * (binomial(others, p) @ log_sum) for p, n in zip(codes, number, strict=True))
    return Optimum(float(value), math.log1p(views * others))


class Law(NamedTuple):
    """The law of an anchor's candidates: their density ratios, each with the probability of a negative that
    has it (the positive's is ratio x mass). What is left to 1 are negatives of ratio 0."""

    weight: float
    """probability of the anchors that have this law"""
    ratio: Float64[np.ndarray, " k"]
    mass: Float64[np.ndarray, " k"]


def laws_of(
    anchor: Int64[np.ndarray, " s"], joint: Float64[np.ndarray, " s"], negative: Float64[np.ndarray, " s"]
) -> list[Law]:
    """Find the distinct laws of the anchors, from the possible (anchor, candidate) pairs: which anchor each belongs to,
    its joint probability, and the probability that a negative is this candidate.

    Candidates of one ratio are merged, then anchors of one law: on a symmetric task a single law remains. Rounding
    decides what is equal; the values stay exact.
    """
    p_anchor = np.bincount(anchor, weights=joint)
    log_ratio = np.log(joint / (p_anchor[anchor] * negative))
    _, first, level = np.unique(log_ratio.round(12), return_index=True, return_inverse=True)
    cell, row = np.unique(anchor * len(first) + level, return_inverse=True)
    owner, level = np.divmod(cell, len(first))
    ratio, mass = np.exp(log_ratio[first[level]]), np.bincount(row, weights=negative)
    fingerprint = np.stack([level, np.log(mass).round(12)], axis=1)
    found: dict[bytes, Law] = {}
    cells_of = np.split(np.arange(len(cell)), np.flatnonzero(np.diff(owner)) + 1)
    for p, cells in zip(p_anchor, cells_of, strict=True):
        key = fingerprint[cells].tobytes()
        weight = found[key].weight if key in found else 0.0
        found[key] = Law(weight + p, ratio[cells], mass[cells])
    return list(found.values())


def _one_direction(
    anchor: Int64[np.ndarray, " s"],
    joint: Float64[np.ndarray, " s"],
    negative: Float64[np.ndarray, " s"],
    rows: Rows,
) -> float:
    """Compute L*_B of one direction, from the possible (anchor, candidate) pairs."""
    laws = laws_of(anchor, joint, negative)
    log_sum = sum(law.weight * _expected_log_sum(law.ratio, law.mass, rows) for law in laws)
    information = sum(law.weight * (law.ratio * law.mass) @ np.log(law.ratio) for law in laws)
    return float(log_sum - rows.some * information)


def _expected_log_sum(ratio: Float64[np.ndarray, " k"], mass: Float64[np.ndarray, " k"], rows: Rows) -> float:
    """Compute E[log(sum of N ratios); N > 0]: the negatives' have the value ratio[k] with probability mass[k] and else
    0, the positive's has it with probability ratio[k] mass[k]. Steps 1 to 3 above."""
    h = 0.25
    # The ends: the integrand is about t (sum of ratios) at small t, e^-t - e^(-t ratio) at large t; both < 1e-16.
    low, high = -40 - math.log(rows.batch * ratio.max()), math.log(40 / min(1.0, ratio.min()))
    t = np.exp(np.arange(low, high, h))
    decay = np.exp(-t[:, None] * ratio)  # nodes x k
    negative = max(0.0, 1 - mass.sum()) + decay @ mass
    positive = decay @ (ratio * mass)
    return h * float((rows.some * np.exp(-t) - positive * rows.power(np.minimum(negative, 1))).sum())
