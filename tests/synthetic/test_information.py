"""Information and Bayes accuracies against dense tables of random distributions and the tasks' closed forms."""

import math

import numpy as np
import pytest

from synthetic.synergy import Synergy
from synthetic.theory.information import (
    bayes_accuracy,
    best_single_accuracy,
    entropy,
    mutual_information,
    total_correlation,
)
from synthetic.theory.joint import Joint
from synthetic.xor import XOR

SIZES = {"x": 3, "y": 2, "z": 5}


def dense_entropy(table, axes):
    p = table.sum(tuple(i for i in range(table.ndim) if i not in axes)).ravel()
    return -sum(v * math.log(v) for v in p if v > 0)


@pytest.fixture
def random_joint():
    """A distribution with impossible outcomes, as a dense table and as a support listed in pieces."""
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.ones(30)).reshape(3, 2, 5) * (rng.random((3, 2, 5)) < 0.6)
    table /= table.sum()
    cells = np.indices(table.shape).reshape(3, -1)
    share = rng.random(30)
    twice = dict(zip("xyz", np.concatenate([cells, cells], axis=1), strict=True))
    joint = Joint.merge(SIZES, twice, np.concatenate([share * table.ravel(), (1 - share) * table.ravel()]))
    print("seed", seed)
    return table, joint


def test_support_is_merged_and_possible(random_joint):
    table, joint = random_joint
    assert len(joint.support) == (table > 0).sum()
    assert np.allclose(table[tuple(joint.support.T)], joint.probability, rtol=1e-12)


def test_information_of_a_random_distribution(random_joint):
    table, joint = random_joint
    assert entropy(joint, ("x", "z")) == pytest.approx(dense_entropy(table, (0, 2)), abs=1e-12)
    expected = dense_entropy(table, (1,)) + dense_entropy(table, (0, 2)) - dense_entropy(table, (0, 1, 2))
    assert mutual_information(joint, ("z", "x"), ("y",)) == pytest.approx(expected, abs=1e-12)
    assert mutual_information(joint, ("x",), ("x", "y")) == pytest.approx(dense_entropy(table, (0,)), abs=1e-12)
    expected = sum(dense_entropy(table, (i,)) for i in range(3)) - dense_entropy(table, (0, 1, 2))
    assert total_correlation(joint) == pytest.approx(expected, abs=1e-12)


def test_bayes_accuracy_of_a_random_distribution(random_joint):
    table, joint = random_joint
    assert bayes_accuracy(joint, "y", ("z", "x")) == pytest.approx(table.max(axis=1).sum(), abs=1e-12)
    singles = [table.sum(axis=2).max(axis=1).sum(), table.sum(axis=0).max(axis=0).sum()]
    assert bayes_accuracy(joint, "y", ("x",)) == pytest.approx(singles[0], abs=1e-12)
    assert best_single_accuracy(joint, "y") == pytest.approx(max(singles), abs=1e-12)


@pytest.mark.parametrize("group", [(), ("x", "w")])
def test_unknown_groups_are_refused(random_joint, group):
    with pytest.raises(ValueError, match="choose some of x, y, z"):
        entropy(random_joint[1], group)


def test_codes_outside_the_alphabet_are_refused():
    with pytest.raises(ValueError):
        Joint.merge({"x": 2}, {"x": np.array([0, 2])}, np.array([0.5, 0.5]))


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_xor(bits):
    truth = XOR(bits=bits).truth()
    assert truth.pairwise_information == pytest.approx({"a,b": 0, "a,c": 0, "b,c": 0}, abs=1e-12)
    assert truth.total_correlation == pytest.approx(bits * math.log(2), abs=1e-12)
    assert (truth.bayes_accuracy, truth.chance) == (pytest.approx(1), 2**-bits)
    assert truth.best_single_accuracy == pytest.approx(2**-bits)


@pytest.mark.parametrize("bits", [1, 3, 5])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_synergy(bits, p):
    truth = Synergy(bits=bits, p=p).truth()
    size = 2**bits
    q, r = 1 - p + p / size, p / size
    coin = -p * math.log(p) - (1 - p) * math.log(1 - p)
    a_c = bits * math.log(2) + q * math.log(q) + (size - 1) * r * math.log(r)
    assert truth.pairwise_information == pytest.approx({"a,b": 0, "a,c": a_c, "b,c": 0}, abs=1e-12)
    assert truth.total_correlation == pytest.approx(bits * math.log(2) - (1 - 1 / size) * coin, abs=1e-12)
    assert truth.bayes_accuracy == pytest.approx(p + (1 - p) / size, abs=1e-12)
    assert truth.best_single_accuracy == pytest.approx(1 / size, abs=1e-12)


def test_synergy_published_recipe():
    truth = Synergy(bits=5, p=0.5).truth()
    assert (truth.target, truth.batch) == ("b", 256)
    assert truth.bayes_accuracy == pytest.approx(0.5156, abs=5e-5)
    assert truth.total_correlation == pytest.approx(2.794, abs=5e-4)
