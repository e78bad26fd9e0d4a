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

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64


class Optimum(NamedTuple):
    """What a loss can reach, in nats."""

    value: float
    """with the best critic: L*_B"""
    no_information: float
    """with a critic that tells nothing apart"""


def infonce_optimum(joint: Joint, a: tuple[str, ...], b: tuple[str, ...], batch: int) -> Optimum:
    """InfoNCE between two groups of modalities, the average of its two directions.

    Raises ValueError when `batch` < 2 or a group names no modality.
    """
    _check(batch)
    pair = joint.marginal(tuple(dict.fromkeys(a + b)))
    (x, p_x), (y, p_y) = pair.group(a), pair.group(b)
    forward = _one_direction(x, pair.probability, p_y[y], batch)
    backward = _one_direction(y, pair.probability, p_x[x], batch)
    return Optimum((forward + backward) / 2, math.log(batch))


def sigmoid_optimum(joint: Joint, a: tuple[str, ...], b: tuple[str, ...], batch: int) -> Optimum:
    """The sigmoid loss of SigLIP (arXiv 2303.15343), summed over the B x B pairs and divided by B.

    Raises ValueError when `batch` < 2 or a group names no modality.
    """
    _check(batch)
    pair = joint.marginal(tuple(dict.fromkeys(a + b)))
    (x, p_x), (y, p_y) = pair.group(a), pair.group(b)
    p, independent, others = pair.probability, p_x[x] * p_y[y], batch - 1
    odds = p / independent / others  # of "positive", for a pair drawn from a batch: the optimal logit is their log
    positive = (p * np.log1p(1 / odds)).sum()
    negative = others * (independent * np.log1p(odds)).sum()  # pairs outside the support have odds 0: loss 0
    return Optimum(float(positive + negative), math.log(batch) + others * math.log(batch / others))


def symile_optimum(joint: Joint, batch: int) -> Optimum:
    """Symile (arXiv 2411.01053) with `n` negatives, averaged over the anchors: every modality in turn picks the true
    tuple of the others among B - 1 tuples whose members are drawn independently.

    Shuffles within a batch are not quite independent draws: about three candidates a row hold the anchor's own sample
    or a true pair. That is 1e-4 on XOR, but where pairs are dependent the loss ends higher: by .07 for three copies
    of one of 16 symbols at B = 256.

    Raises ValueError when `batch` < 2 or there are fewer than three modalities.
    """
    _check(batch)
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
            batch,
        )
        for anchor in names
    ]
    return Optimum(sum(directions) / len(names), math.log(batch))


def _one_direction(
    anchor: Int64[np.ndarray, " s"],
    joint: Float64[np.ndarray, " s"],
    negative: Float64[np.ndarray, " s"],
    batch: int,
) -> float:
    """L*_B of one direction, from the possible (anchor, candidate) pairs: which anchor each belongs to, its joint
    probability, and the probability that a negative is this candidate."""
    p_anchor = np.bincount(anchor, weights=joint)
    log_ratio = np.log(joint / (p_anchor[anchor] * negative))
    # Only the law of the ratio matters, so candidates of one ratio are merged, then anchors of one law: on a
    # symmetric task a single law remains. Rounding decides what is equal; the values stay exact.
    _, first, level = np.unique(log_ratio.round(12), return_index=True, return_inverse=True)
    cell, row = np.unique(anchor * len(first) + level, return_inverse=True)
    owner, level = np.divmod(cell, len(first))
    ratio, mass = np.exp(log_ratio[first[level]]), np.bincount(row, weights=negative)
    fingerprint = np.stack([level, np.log(mass).round(12)], axis=1)
    laws: dict[bytes, tuple[float, Int64[np.ndarray, " k"]]] = {}
    cells_of = np.split(np.arange(len(cell)), np.flatnonzero(np.diff(owner)) + 1)
    for p, cells in zip(p_anchor, cells_of, strict=True):
        key = fingerprint[cells].tobytes()
        weight, example = laws.get(key, (0.0, cells))
        laws[key] = (weight + p, example)
    log_sum = sum(p * _expected_log_sum(ratio[cells], mass[cells], batch) for p, cells in laws.values())
    return float(log_sum - (joint * log_ratio).sum())


def _expected_log_sum(ratio: Float64[np.ndarray, " k"], mass: Float64[np.ndarray, " k"], batch: int) -> float:
    """E log(sum of B ratios): the negatives' have the value ratio[k] with probability mass[k] and else 0, the
    positive's has it with probability ratio[k] mass[k]. Steps 1 to 3 above."""
    h = 0.25
    # The ends: the integrand is about t (sum of ratios) at small t, e^-t - e^(-t ratio) at large t; both < 1e-16.
    low, high = -40 - math.log(batch * ratio.max()), math.log(40 / min(1.0, ratio.min()))
    t = np.exp(np.arange(low, high, h))
    decay = np.exp(-t[:, None] * ratio)  # nodes x k
    negative = max(0.0, 1 - mass.sum()) + decay @ mass
    positive = decay @ (ratio * mass)
    return h * float((np.exp(-t) - positive * negative ** (batch - 1)).sum())


def _check(batch: int) -> None:
    if batch < 2:
        raise ValueError(f"batch ({batch}) has no negatives: at least 2 are needed")
