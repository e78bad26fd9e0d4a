"""The least value of InfoNCE under label smoothing (GRAM, TRIANGLE), where one law describes every anchor.

Smoothing moves the optimum: a share alpha of the target lies on the batch's B candidates alike, so that no critic may
tell them apart for certain. Let candidates of one density ratio r_k share a level, with probability m_k for a negative
and p_k = r_k m_k for the positive. By convexity and symmetry the best score depends on the level alone:

    L(s) = E log sum_j e^s(j) - sum_k w_k s_k,      w_k = (1 - alpha + alpha/B) p_k + alpha (1 - 1/B) m_k

 1. At the optimum the expected softmax mass g_k(s) of level k is w_k.
 2. log is concave: E log sum e^(s + d) <= E log sum e^s + sum_k g_k e^d_k - 1. The minimum of this bound less w d is at
    d_k = log(w_k / g_k), so that step never goes up, and stands still only at the optimum.
 3. g_k = int_0^inf v_k [p_k e^(-t v_k) N(t)^(B-1) + (B-1) m_k e^(-t v_k) P(t) N(t)^(B-2)] dt with v = e^s and N, P the
    factors of a negative and of the positive, by the same rule as in `synthetic.theory.optima`.

Trap: with several laws the two directions want different critics, and the mean of their optima is not reached.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from synthetic.theory.joint import Joint
from synthetic.theory.optima import Optimum, laws_of
from synthetic.theory.presence import Rows

if TYPE_CHECKING:
    from jaxtyping import Float64


def smoothed_optimum(
    joint: Joint, a: tuple[str, ...], b: tuple[str, ...], batch: int, smoothing: float
) -> Optimum | None:
    """Compute the optimum of InfoNCE between two groups of modalities with label smoothing, the average of its two
    directions; None where the anchors do not all have one law.

    Raises ValueError when `batch` < 2, a group names no modality or `smoothing` is not between 0 and 1.
    """
    if not 0 < smoothing < 1:
        raise ValueError(f"smoothing ({smoothing}) is the share of the target that is spread: between 0 and 1")
    pair, batch = joint.marginal(tuple(dict.fromkeys(a + b))), Rows(batch).batch
    (x, p_x), (y, p_y) = pair.group(a), pair.group(b)
    first, *others = laws_of(x, pair.probability, p_y[y]) + laws_of(y, pair.probability, p_x[x])
    if any(len(o.mass) != len(first.mass) or not np.allclose(o[1:], first[1:], rtol=1e-9) for o in others):
        return None
    apart = max(0.0, 1 - first.mass.sum())  # negatives that never are the positive
    negative, positive = first.mass, first.ratio * first.mass
    if apart > 1e-12:
        negative, positive = np.append(negative, apart), np.append(positive, 0)
    return Optimum(_best(negative, positive, batch, smoothing), math.log(batch))


def _best(negative: Float64[np.ndarray, " k"], positive: Float64[np.ndarray, " k"], batch: int, alpha: float) -> float:
    """Minimise L(s) over s, from s = 0."""
    weight = (1 - alpha + alpha / batch) * positive + alpha * (1 - 1 / batch) * negative
    score = np.zeros_like(weight)
    for _ in range(10_000):
        log_sum, mass = _softmax(negative, positive, score, batch)
        step = np.log(weight / mass)
        if abs(step).max() < 1e-12:
            break
        score += step
    return float(log_sum - weight @ score)


def _softmax(
    negative: Float64[np.ndarray, " k"],
    positive: Float64[np.ndarray, " k"],
    score: Float64[np.ndarray, " k"],
    batch: int,
) -> tuple[float, Float64[np.ndarray, " k"]]:
    """Compute E log sum_j e^s(j), and the expected softmax mass of each level."""
    h, value = 0.25, np.exp(score)
    t = np.exp(np.arange(-40 - math.log(batch * value.max()), math.log(40 / min(1.0, value.min())), h))
    decay = np.exp(-t[:, None] * value)
    none, one = decay @ negative, decay @ positive  # a negative's factor, the positive's
    log_sum = h * (np.exp(-t) - one * none ** (batch - 1)).sum()
    slope = none[:, None] ** (batch - 2) * (none[:, None] * positive + (batch - 1) * one[:, None] * negative)
    return log_sum, h * (t[:, None] * value * decay * slope).sum(0)
