"""Optima that are not a density ratio's: label smoothing, and views that cannot be told apart."""

import itertools
import math

import numpy as np
import pytest

from synthetic.distractor import Distractor
from synthetic.redundancy import Redundancy
from synthetic.synergy import Synergy
from synthetic.theory.joint import Joint
from synthetic.theory.optima import infonce_optimum, ntxent_optimum
from synthetic.theory.smoothing import smoothed_optimum
from synthetic.xor import XOR
from synthetic.xor_flip import XORFlip

AB, C = ("a", "b"), ("c",)


def enumerated(table, critic, alpha, batch):
    """The smoothed cross-entropy of a critic [anchors, candidates] over every batch."""
    loss, q = 0.0, table.sum(0)
    for x, y in zip(*np.nonzero(table), strict=True):
        for others in itertools.product(range(len(q)), repeat=batch - 1):
            scores = critic[x, [y, *others]]
            target = (1 - alpha) * scores[0] + alpha * scores.mean()
            loss += table[x, y] * np.prod(q[list(others)]) * (np.logaddexp.reduce(scores) - target)
    return loss


def one_score(size, batch, alpha):
    """XOR's single free number, found by golden section: right pairs score s above wrong ones."""
    n, q = batch - 1, 1 / size
    law = np.array([math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(batch)])
    right = 1 + np.arange(batch)

    def loss(s):
        smooth = (1 - alpha) + alpha / batch * (1 + n * q)
        return law @ np.log(right * math.exp(s) + batch - right) - s * smooth

    low, high = 0.0, 12.0
    for _ in range(120):
        a, b = high - (high - low) * 0.618, low + (high - low) * 0.618
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return loss(low)


@pytest.mark.parametrize(("bits", "batch", "alpha"), [(3, 256, 0.1), (1, 256, 0.1), (5, 256, 0.1), (2, 2, 0.3)])
def test_xor_has_one_score_to_find(bits, batch, alpha):
    optimum = smoothed_optimum(XOR(bits=bits).joint(), AB, C, batch, alpha)
    assert optimum.value == pytest.approx(one_score(2**bits, batch, alpha), abs=1e-9)
    assert optimum.no_information == math.log(batch)


def test_published_smoothing_on_three_bits():
    truth = XOR(bits=3).truth()
    assert truth.infonce(AB, C, smoothing=0.1).value == pytest.approx(3.945, abs=5e-4)
    assert truth.infonce(AB, C, smoothing=0.0) == truth.infonce(AB, C)


@pytest.mark.slow
def test_no_critic_does_better():
    """Three levels of the density ratio: the enumerated loss at the optimum's own critic, and beside it."""
    table = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]]) / 3
    x, y = np.indices((3, 3)).reshape(2, -1)
    joint = Joint.merge({"x": 3, "y": 3}, {"x": x, "y": y}, table.ravel())
    optimum, batch, alpha = smoothed_optimum(joint, ("x",), ("y",), 3, 0.2), 3, 0.2
    grid = [enumerated(table, s[0] * (table > 0.15) + s[1] * (table > 0.09), alpha, batch)
            for s in itertools.product(np.linspace(0.3, 1.5, 13), repeat=2)]  # fmt: skip
    assert optimum.value <= min(grid) + 1e-12
    assert optimum.value == pytest.approx(min(grid), abs=1e-3)
    seed = np.random.SeedSequence().entropy
    noise = np.random.default_rng(seed).normal(size=(20, 3, 3))
    assert all(optimum.value < enumerated(table, critic, alpha, batch) for critic in noise), f"seed {seed}"


@pytest.mark.parametrize("task", [XOR(bits=2), XORFlip(bits=2, p=0.2), Distractor(bits=2)])
def test_little_smoothing_is_none(task):
    plain, smoothed = (infonce_optimum(task.joint(), AB, C, 41), smoothed_optimum(task.joint(), AB, C, 41, 1e-5))
    assert plain.value < smoothed.value == pytest.approx(plain.value, abs=5e-4)


def test_several_laws_have_no_known_optimum():
    assert smoothed_optimum(Synergy(bits=2, p=0.3).joint(), ("a", "c"), ("b",), 16, 0.1) is None
    assert smoothed_optimum(Redundancy(size=4, noise=0.2).joint(), AB, C, 16, 0.1) is None
    with pytest.raises(ValueError, match=r"smoothing \(1.5\)"):
        smoothed_optimum(XOR().joint(), AB, C, 16, 1.5)


@pytest.mark.parametrize("views", [2, 3])
def test_equal_views_are_the_enumerated_loss(views):
    """Two symbols of unequal probability, every batch of three: candidates are a positive and others' views."""
    p, batch = {0: 0.3, 1: 0.7}, 3
    expected = sum(
        p[x] * math.prod(p[y] for y in others) * math.log1p(views * sum(y == x for y in others))
        for x in p
        for others in itertools.product(p, repeat=batch - 1)
    )
    uneven = Joint({"x": 2}, np.array([[0], [1]]), np.array([0.3, 0.7]))
    optimum = ntxent_optimum(uneven, ("x",), views, batch)
    assert optimum == pytest.approx((expected, math.log(1 + views * (batch - 1))), abs=1e-12)


def test_no_information_in_two_views_is_every_other_row():
    truth = XOR(bits=3).truth(batch=128)
    assert truth.ntxent(("a", "b")).no_information == pytest.approx(math.log(2 * 128 - 1))
    with pytest.raises(ValueError, match="1 view"):
        truth.ntxent(("a",), views=1)
