"""Missing modalities: which samples have what, and the optima of terms whose number of rows is random."""

import math

import numpy as np
import pytest
import torch

from synthetic.theory.joint import Joint
from synthetic.theory.optima import infonce_optimum, sigmoid_optimum, symile_optimum
from synthetic.theory.presence import Rows, binomial, draw, partly, share, thin
from synthetic.theory.truth import Truth
from synthetic.xor import XOR

A, B = ("a",), ("b",)
SEEN = {("a", "b"): 0.5, ("b", "c"): 0.3, ("c",): 0.2}


def random_joint(*shape):
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    table = np.random.default_rng(seed).dirichlet(np.ones(math.prod(shape))).reshape(shape)
    names = "abc"[: len(shape)]
    cells = dict(zip(names, np.indices(shape).reshape(len(shape), -1), strict=True))
    return table, Joint.merge(dict(zip(names, shape, strict=True)), cells, table.ravel())


def pmf(batch, p):
    return [math.comb(batch, n) * p**n * (1 - p) ** (batch - n) for n in range(batch + 1)]


@pytest.mark.parametrize(("batch", "p"), [(2, 0.3), (41, 0.9), (41, 1.0), (127, 0.01), (5, 0.0)])
def test_rows_are_binomial(batch, p):
    exact, rows, z = pmf(batch, p), Rows(batch, p), np.array([0.0, 1e-9, 0.4, 1.0])
    assert binomial(batch, p) == pytest.approx(exact, abs=1e-14)
    assert rows.some == pytest.approx(1 - exact[0], abs=1e-14)
    assert rows.negatives == pytest.approx(sum(q * (n - 1) for n, q in enumerate(exact) if n), abs=1e-12)
    power = sum(q * z ** (n - 1) for n, q in enumerate(exact) if n)
    assert rows.power(z) == pytest.approx(power, abs=1e-13)
    assert rows.log_count == pytest.approx(sum(q * math.log(n) for n, q in enumerate(exact) if n), abs=1e-13)


def test_large_batches_do_not_underflow():
    rows = Rows(32768, 0.75)
    assert (rows.some, rows.negatives) == (1, 32768 * 0.75 - 1)
    mean, variance = 32768 * 0.75, 32768 * 0.75 * 0.25
    assert rows.log_count == pytest.approx(math.log(mean) - variance / (2 * mean**2), abs=1e-8)
    assert rows.power(np.array([1.0, 0.9999])) == pytest.approx([1, math.exp(32768 * math.log1p(-0.75e-4)) / 0.9999])


def test_shares_and_thinning():
    assert share(SEEN, ("b",)) == pytest.approx(0.8)
    assert share(SEEN, ("c", "b")) == pytest.approx(0.3)
    assert share(SEEN, ("a", "c")) == 0
    thinned = thin(SEEN, {"a": 0.5, "b": 0.0, "c": 1 / 3})
    expected = {("b",): 0.25 + 0.1, ("a", "b"): 0.25, ("b", "c"): 0.2, (): 0.2 / 3, ("c",): 0.4 / 3}
    assert thinned == pytest.approx(expected)


def test_patterns_are_drawn_with_their_shares():
    n, seed = 100_000, torch.seed() % 2**31
    there = draw(SEEN, "abc", n, torch.Generator().manual_seed(seed))
    again = draw(SEEN, "abc", n, torch.Generator().manual_seed(seed))
    assert all(torch.equal(there[m], again[m]) for m in "abc")
    for pattern, p in SEEN.items():
        count = torch.stack([there[m] == (m in pattern) for m in "abc"]).all(0).sum().item()
        assert abs(count - n * p) < 6 * math.sqrt(n * p * (1 - p)), f"seed {seed}: {pattern}"


@pytest.mark.parametrize(("batch", "p"), [(6, 0.5), (17, 0.9), (17, 1e-3)])
def test_optima_are_the_mean_over_the_rows(batch, p):
    _, joint = random_joint(3, 4)
    _, three = random_joint(2, 3, 2)
    for optimum, law in (
        (infonce_optimum(joint, A, B, batch, p), lambda n: infonce_optimum(joint, A, B, n)),
        (symile_optimum(three, batch, p), lambda n: symile_optimum(three, n)),
    ):
        exact = [(q, law(n)) for n, q in enumerate(pmf(batch, p)) if n > 1]  # one row is certain: loss 0
        assert optimum.value == pytest.approx(sum(q * o.value for q, o in exact), abs=1e-11)
        assert optimum.no_information == pytest.approx(sum(q * o.no_information for q, o in exact), abs=1e-12)


def test_sigmoid_has_one_logit_for_all_numbers_of_rows():
    table, joint = random_joint(3, 4)
    independent, exact = np.outer(table.sum(1), table.sum(0)), pmf(9, 0.6)

    def loss(logit):
        positive, negative = (table * np.logaddexp(0, -logit)).sum(), (independent * np.logaddexp(0, logit)).sum()
        return sum(q * (positive + (n - 1) * negative) for n, q in enumerate(exact) if n)

    some, others = 1 - exact[0], sum(q * (n - 1) for n, q in enumerate(exact) if n)
    best = np.log(table / independent) + math.log(some / others)
    optimum = sigmoid_optimum(joint, A, B, 9, 0.6)
    assert optimum.value == pytest.approx(loss(best), abs=1e-12)
    assert optimum.value < loss(best + 0.1 * np.random.default_rng().normal(size=best.shape))
    assert optimum.no_information == pytest.approx(loss(np.full_like(table, math.log(some / others))), abs=1e-12)
    assert sigmoid_optimum(joint, A, B, 9, 0.0) == (0, 0)


def test_a_share_of_one_is_the_whole_batch():
    joint = XOR(bits=2).joint()
    almost = infonce_optimum(joint, ("a", "b"), ("c",), 64, 1 - 1e-12)
    assert almost == pytest.approx(infonce_optimum(joint, ("a", "b"), ("c",), 64), abs=1e-9)


@pytest.mark.slow
def test_a_prefix_is_what_is_there_of_it():
    """InfoNCE of (a, b) with c, over samples that have c and any of a and b: every number of rows, then batches."""
    table, joint = random_joint(2, 3, 2)
    seen, rng = {("a", "b", "c"): 0.4, ("b", "c"): 0.2, ("c",): 0.1, ("a", "b"): 0.3}, np.random.default_rng()
    found = partly(joint, seen, ("a", "b"), "c")
    assert found is not None
    some, part = found
    assert part == pytest.approx(0.6)
    # what is seen of a sample: both codes, or b alone as if a had a third value
    flat = np.concatenate([table.reshape(6, 2) * 0.4, table.sum(0) * 0.2]) / 0.6
    critic = np.log(flat / flat.sum(1, keepdims=True) / flat.sum(0))
    losses = []
    for _ in range(4000):
        rows = rng.choice(flat.size, rng.binomial(9, 0.6), p=flat.ravel())
        if len(rows) == 0:
            losses.append(0.0)
            continue
        scores = critic[(rows // 2)[:, None], rows % 2]
        lse = (np.logaddexp.reduce(scores, 1) + np.logaddexp.reduce(scores, 0)) / 2
        losses.append((lse - scores.diagonal()).mean())
    optimum, error = infonce_optimum(some, ("a", "b"), ("c",), 9, part), np.std(losses) / math.sqrt(4000)
    assert abs(np.mean(losses) - optimum.value) < 4.5 * error
    chain = Truth.of("chain", joint, "c", 9, seen=seen).confu_chain()
    assert chain is not None
    assert optimum.value < chain.value < chain.no_information
    assert partly(joint, {("a", "b"): 0.5, ("c",): 0.5}, ("a", "b"), "c") is None


def test_the_chain_of_complete_samples_is_the_limit():
    joint = XOR(bits=2).joint()
    almost = Truth.of("xor", joint, "c", 16, seen={("a", "b", "c"): 1 - 1e-12, ("a", "c"): 1e-12}).confu_chain()
    assert almost == pytest.approx(XOR(bits=2).truth(16).confu_chain(), abs=1e-9)
