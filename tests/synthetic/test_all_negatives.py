"""The optimum of Symile with all negatives: every batch enumerated, simulated batches, and where none is known."""

import itertools
import math

import numpy as np
import pytest

from synthetic.synergy import Synergy
from synthetic.theory.all_negatives import symile_all_optimum
from synthetic.theory.joint import Joint
from synthetic.xor import XOR


def sums(size: int) -> Joint:
    """c = a + b mod K."""
    a, b = np.indices((size, size)).reshape(2, -1)
    columns = {"a": a, "b": b, "c": (a + b) % size}
    return Joint.merge(dict.fromkeys("abc", size), columns, np.full(size**2, size**-2.0))


def losses_of_batches(size: int, batch: int, critic: np.ndarray) -> float:
    """The expected loss of a critic [x, y, z] over every batch of c = a + b mod K, averaged over the anchors."""
    samples = [(a, b, (a + b) % size) for a in range(size) for b in range(size)]
    total = 0.0
    for drawn in itertools.product(samples, repeat=batch):
        codes = np.array(drawn).T
        for anchor in range(3):
            index = [c[:, None] if m else c[None, :] for m, c in enumerate(np.delete(codes, anchor, 0))]
            index.insert(anchor, np.full((1, 1), codes[anchor, 0]))
            scores = critic[tuple(index)]
            total += np.logaddexp.reduce(scores, axis=None) - scores[0, 0]
    return total / 3 / len(samples) ** batch


@pytest.mark.slow
@pytest.mark.parametrize(("size", "batch"), [(2, 2), (2, 5), (3, 3)])
def test_it_is_the_enumerated_loss_and_no_critic_does_better(size: int, batch: int) -> None:
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    a, b, c = np.indices((size,) * 3)
    critic = np.where((a + b) % size == c, 0.0, -800.0)
    optimum = symile_all_optimum(sums(size), batch)
    assert optimum is not None
    assert optimum.value == pytest.approx(losses_of_batches(size, batch, critic), abs=1e-11)
    assert optimum.no_information == pytest.approx(losses_of_batches(size, batch, critic * 0), abs=1e-11)
    other = np.maximum(critic, -7) + 0.1 * np.random.default_rng(seed).normal(size=critic.shape)
    assert optimum.value < losses_of_batches(size, batch, other)


@pytest.mark.parametrize(("bits", "batch"), [(3, 41), (6, 41), (3, 256), pytest.param(8, 256, marks=pytest.mark.slow)])
def test_simulated_counts_reach_it(bits: int, batch: int) -> None:
    seed, size = np.random.SeedSequence().entropy, 2**bits
    own, draws = np.eye(size, dtype=int)[0], 4000
    rng = np.random.default_rng(seed)
    y, z = (rng.multinomial(batch - 1, np.full(size, 1 / size), size=draws) + own for _ in range(2))
    logs = np.log((y * z).sum(1))
    truth = XOR(bits=bits).truth(batch)
    optimum = truth.symile_all()
    assert optimum is not None
    assert abs(logs.mean() - optimum.value) < 4 * logs.std() / math.sqrt(draws), f"seed {seed}"
    assert 2 * math.log(batch) - truth.total_correlation < optimum.value < 2 * math.log(batch)


def test_none_where_pairs_are_dependent_or_symbols_rare() -> None:
    assert symile_all_optimum(Synergy(bits=2, p=0.5).joint(), 16) is None
    a, b = np.indices((2, 2)).reshape(2, -1)
    rare = np.outer([0.3, 0.7], [0.5, 0.5]).ravel()
    assert symile_all_optimum(Joint.merge(dict.fromkeys("abc", 2), {"a": a, "b": b, "c": a ^ b}, rare), 16) is None


def test_three_modalities_and_a_negative() -> None:
    a, b, c = np.indices((2, 2, 2)).reshape(3, -1)
    four = Joint.merge(dict.fromkeys("abcd", 2), {"a": a, "b": b, "c": c, "d": a ^ b ^ c}, np.full(8, 1 / 8))
    with pytest.raises(ValueError, match="contrasts 3 modalities, not 4"):
        symile_all_optimum(four, 16)
    with pytest.raises(ValueError, match=r"batch \(1\) has no negatives"):
        symile_all_optimum(sums(2), 1)
