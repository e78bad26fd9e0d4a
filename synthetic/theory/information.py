"""Exact information, in nats, and exact Bayes accuracies of a joint distribution.

The differences of entropies that vanish are off by round-off of either sign: they are clamped at 0.
"""

from __future__ import annotations

import numpy as np

from synthetic.theory.joint import Joint


def entropy(joint: Joint, modalities: tuple[str, ...]) -> float:
    """Compute H of a group of modalities."""
    _, p = joint.group(modalities)
    return float(-(p * np.log(p)).sum())


def mutual_information(joint: Joint, a: tuple[str, ...], b: tuple[str, ...]) -> float:
    """Compute I(A; B) of two groups of modalities, which may overlap."""
    union = tuple(dict.fromkeys(a + b))
    return max(0.0, entropy(joint, a) + entropy(joint, b) - entropy(joint, union))


def total_correlation(joint: Joint) -> float:
    """Compute TC = sum of H(X_m) - H(X_1, ..., X_M)  (Watanabe 1960): all the dependence there is, of every order."""
    every = tuple(joint.codes)
    return max(0.0, sum(entropy(joint, (m,)) for m in every) - entropy(joint, every))


def bayes_accuracy(joint: Joint, target: str, given: tuple[str, ...]) -> float:
    """Compute the best accuracy any predictor of `target` reaches when it sees `given`: the sum over values of `given`
    of the largest joint probability."""
    both = joint.marginal(tuple(dict.fromkeys((*given, target))))
    value, p = both.group(given)
    best = np.zeros_like(p)
    np.maximum.at(best, value, both.probability)
    return float(best.sum())


def best_single_accuracy(joint: Joint, target: str, given: tuple[str, ...] | None = None) -> float:
    """Compute the best accuracy from any one of the given modalities; default: of all others."""
    return max(bayes_accuracy(joint, target, (m,)) for m in given or joint.codes if m != target)
