"""Optima of the losses: enumeration of every batch, binomial closed forms, and simulated batches scored by the
density ratio."""

import itertools
import math

import numpy as np
import pytest

from synthetic.synergy import Synergy
from synthetic.theory.joint import Joint
from synthetic.theory.optima import infonce_optimum, sigmoid_optimum, symile_optimum
from synthetic.theory.truth import Truth
from synthetic.xor import XOR

A, B, C = ("a",), ("b",), ("c",)


def of_table(table):
    names = "abcd"[: table.ndim]
    cells = dict(zip(names, np.indices(table.shape).reshape(table.ndim, -1), strict=True))
    return Joint.merge(dict(zip(names, table.shape, strict=True)), cells, table.ravel())


def random_table(*shape, zeros=0.3):
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    rng = np.random.default_rng(seed)
    table = rng.gamma(1.0, size=shape) * (rng.random(shape) >= zeros)
    table.flat[0] += 0.1  # never empty
    return table / table.sum(), rng


def enumerated(p, negative, critic, batch):
    """E of the cross-entropy over every batch: p and critic are [anchors, candidates], negative [candidates]."""
    loss = 0.0
    for x, y in zip(*np.nonzero(p), strict=True):
        for others in itertools.product(np.flatnonzero(negative), repeat=batch - 1):
            scores = critic[x, [y, *others]]
            weight = p[x, y] * np.prod(negative[list(others)])
            loss += weight * (np.logaddexp.reduce(scores) - scores[0])
    return loss


def log_ratio(p, negative):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.nan_to_num(p / (p.sum(1, keepdims=True) * negative)))


def binomial(batch, size):
    """E log(1 + Bin(batch - 1, 1 / size)), added up term by term."""
    n, q = batch - 1, 1 / size
    return sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) * math.log1p(k) for k in range(batch))


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_infonce_is_the_enumerated_loss_and_no_critic_does_better(batch):
    p, rng = random_table(3, 4)

    def loss(critic):
        forward = enumerated(p, p.sum(0), critic, batch)
        return (forward + enumerated(p.T, p.sum(1), critic.T, batch)) / 2

    critic = log_ratio(p, p.sum(0))
    optimum = infonce_optimum(of_table(p), A, B, batch)
    assert optimum.value == pytest.approx(loss(critic), abs=1e-12)
    assert optimum.no_information == pytest.approx(loss(np.zeros_like(p)), abs=1e-12)
    assert optimum.value < loss(np.maximum(critic, -9) + 0.1 * rng.normal(size=p.shape))


def test_infonce_between_groups_is_that_of_the_flat_pair():
    p, _ = random_table(3, 2, 4)
    expected = infonce_optimum(of_table(p.reshape(6, 4)), A, B, 17)
    assert infonce_optimum(of_table(p), ("a", "b"), C, 17).value == pytest.approx(expected.value, abs=1e-12)
    assert infonce_optimum(of_table(p), ("b", "a"), C, 17).value == pytest.approx(expected.value, abs=1e-12)


@pytest.mark.parametrize("batch", [2, 256, 32768])
def test_nothing_shared_costs_what_no_information_costs(batch):
    p, _ = random_table(5, 7)
    joint = of_table(np.outer(p.sum(1), p.sum(0)))
    for optimum in (infonce_optimum(joint, A, B, batch), sigmoid_optimum(joint, A, B, batch)):
        assert optimum.value == pytest.approx(optimum.no_information, abs=1e-9)


def test_rare_outcomes_and_large_batches():
    """Two symbols, one of probability 1e-6: the binomial of each, weighted."""
    rare, batch = 1e-6, 4096
    joint = of_table(np.diag([rare, 1 - rare]))

    def log_count(q):
        k = np.arange(batch)
        log_comb = np.array([math.lgamma(batch) - math.lgamma(i + 1) - math.lgamma(batch - i) for i in k])
        return (np.exp(log_comb + k * math.log(q) + (batch - 1 - k) * math.log1p(-q)) * np.log1p(k)).sum()

    expected = rare * log_count(rare) + (1 - rare) * log_count(1 - rare)
    assert infonce_optimum(joint, A, B, batch).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "seen"), [(3, 3.4795), (5, 2.1415), (6, 1.5174), (8, 0.572)])
def test_xor_is_binomial(bits, seen):
    joint = XOR(bits=bits).joint()
    optimum = infonce_optimum(joint, ("a", "b"), C, 256)
    assert optimum.value == pytest.approx(binomial(256, 2**bits), abs=1e-11)
    assert optimum.value == pytest.approx(seen, abs=1e-4 if bits < 8 else 5e-4)
    assert symile_optimum(joint, 256).value == pytest.approx(binomial(256, 2**bits), abs=1e-11)


@pytest.mark.slow
def test_floors_of_xor():
    truth = XOR(bits=3).truth(batch=256)
    floors, ln_b = truth.floors, math.log(256)
    assert floors["clip"] == pytest.approx((3 * ln_b, 3 * ln_b), abs=1e-9)
    assert floors["symile"] == pytest.approx((binomial(256, 8), ln_b), abs=1e-9)
    assert floors["confu"] == pytest.approx((1.5 * ln_b + 1.5 * binomial(256, 8), 3 * ln_b), abs=1e-9)
    assert floors["confu"].value == pytest.approx(13.537, abs=5e-4)
    siglip = ln_b + 255 * math.log(256 / 255)
    assert floors["siglip"] == pytest.approx((3 * siglip, 3 * siglip), abs=1e-9)
    assert siglip == pytest.approx(6.543, abs=5e-4)
    assert truth.sigmoid(("a", "b"), C).value == pytest.approx(4.477, abs=5e-4)
    assert truth.infonce(("a", "c"), B).value == pytest.approx(binomial(256, 8), abs=1e-9)
    assert truth.symile() == floors["symile"]


def test_floors_of_four_modalities():
    """4-way parity: pairs and pairs against one are independent, so every term of clip and confu stays at ln B."""
    a, b, c = np.indices((4, 4, 4)).reshape(3, -1)
    joint = Joint.merge(dict.fromkeys("abcd", 4), {"a": a, "b": b, "c": c, "d": a ^ b ^ c}, np.full(64, 1 / 64))
    floors, ln_b = Truth.of("parity", joint, "d", 256).floors, math.log(256)
    assert floors["clip"] == pytest.approx((6 * ln_b, 6 * ln_b), abs=1e-9)
    assert floors["confu"] == pytest.approx((9 * ln_b, 9 * ln_b), abs=1e-9)
    assert floors["symile"] == pytest.approx((binomial(256, 4), ln_b), abs=1e-9)


def test_sigmoid_is_the_expected_loss_and_no_critic_does_better():
    p, rng = random_table(4, 5)
    independent, batch = np.outer(p.sum(1), p.sum(0)), 41

    def loss(logit):
        return (p * np.logaddexp(0, -logit)).sum() + (batch - 1) * (independent * np.logaddexp(0, logit)).sum()

    best = np.maximum(log_ratio(p, p.sum(0)) - math.log(batch - 1), -50)
    optimum = sigmoid_optimum(of_table(p), A, B, batch)
    assert optimum.value == pytest.approx(loss(best), abs=1e-12)
    assert optimum.value < loss(best + 0.1 * rng.normal(size=p.shape))
    assert optimum.no_information == pytest.approx(loss(np.full_like(p, -math.log(batch - 1))), abs=1e-12)


def test_symile_is_the_enumerated_loss():
    p, _ = random_table(2, 3, 2)
    expected = 0.0
    for anchor in range(3):
        flat = np.moveaxis(p, anchor, 0).reshape(p.shape[anchor], -1)
        one, two = (p.sum(tuple(j for j in range(3) if j != i)) for i in range(3) if i != anchor)
        negative = np.outer(one, two).ravel()
        expected += enumerated(flat, negative, log_ratio(flat, negative), 4) / 3
    assert symile_optimum(of_table(p), 4).value == pytest.approx(expected, abs=1e-12)


def test_symile_needs_three_modalities():
    with pytest.raises(ValueError, match="at least 3 modalities, not 2"):
        symile_optimum(of_table(np.full((2, 2), 0.25)), 8)


def assert_simulated(losses, value, seed):
    mean, error = np.mean(losses), np.std(losses, ddof=1) / math.sqrt(len(losses))
    assert abs(mean - value) < 4 * error, f"seed {seed}: {mean} ± {error}, not {value}"


def cross_entropy(scores):
    return (np.log(np.exp(scores).sum(1)) - scores.diagonal()).mean()


@pytest.mark.slow
@pytest.mark.parametrize("task", [XOR(bits=3), XOR(bits=6), Synergy(bits=3, p=0.3)])
def test_simulated_batches_reach_the_optima(task):
    seed = np.random.SeedSequence().entropy
    rng, truth, batch = np.random.default_rng(seed), task.truth(batch=41), 41
    joint, size = truth.joint, task.codes["a"]
    p = np.zeros((size,) * 3)
    p[tuple(joint.support.T)] = joint.probability
    p_a, p_b, p_c = (p.sum(axes) for axes in ((1, 2), (0, 2), (0, 1)))
    with np.errstate(divide="ignore"):
        pair = np.log(p / p.sum(2, keepdims=True) / p_c)  # (a, b) against c
        triple = np.log(p / (p_a[:, None, None] * p_b[:, None] * p_c))
    infonce, symile = [], []
    for _ in range(300):
        a, b, c = joint.support[rng.choice(len(joint.support), batch, p=joint.probability)].T
        scores = pair[a[:, None], b[:, None], c]
        infonce.append((cross_entropy(scores) + cross_entropy(scores.T)) / 2)
        directions = []
        for anchor in range(3):
            drawn = [rng.choice(size, (batch, batch), p=q) for q in (p_a, p_b, p_c)]
            drawn[anchor] = np.broadcast_to((a, b, c)[anchor][:, None], (batch, batch))
            scores = triple[tuple(drawn)]
            np.fill_diagonal(scores, triple[a, b, c])
            directions.append(cross_entropy(scores))
        symile.append(np.mean(directions))
    assert_simulated(infonce, truth.infonce(("a", "b"), C).value, seed)
    assert_simulated(symile, truth.symile().value, seed)
