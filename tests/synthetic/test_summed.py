"""The best sum of two scores: against simulation, the optimum without that limit, and symmetry."""

import math
import random

import pytest
import torch

from synthetic.and_ import And
from synthetic.redundancy import Redundancy
from synthetic.theory.joint import Joint
from synthetic.theory.optima import infonce_optimum
from synthetic.theory.summed import infonce_of, summed_optimum
from synthetic.uniqueness import Uniqueness
from synthetic.xor import XOR


def table_of(joint: Joint) -> torch.Tensor:
    three = joint.marginal(("a", "b", "c"))
    p = torch.zeros(tuple(three.codes.values()), dtype=torch.float64)
    p[tuple(torch.from_numpy(three.support.T))] = torch.from_numpy(three.probability)
    return p


def test_a_table_of_scores_costs_what_a_simulation_says() -> None:
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    draw = torch.Generator().manual_seed(seed)
    p = torch.rand(2, 3, 4, dtype=torch.float64, generator=draw) ** 3
    p, scores, batch, runs = p / p.sum(), 2 * torch.randn(2, 3, 4, dtype=torch.float64, generator=draw), 5, 40_000
    outcome = torch.multinomial(p.flatten(), runs * batch, replacement=True, generator=draw).view(runs, batch)
    query, target = outcome // 4, outcome % 4
    logits = scores.view(6, 4)[query[:, :, None], target[:, None]]  # runs x queries x targets
    losses = (torch.logsumexp(logits, 2) + torch.logsumexp(logits, 1)) / 2 - logits.diagonal(dim1=1, dim2=2)
    error = losses.mean(1).std() / math.sqrt(runs)
    assert float(infonce_of(scores, p, batch)) == pytest.approx(float(losses.mean()), abs=float(5 * error))


def test_with_the_density_ratio_as_scores_it_is_the_optimum_of_all() -> None:
    joint = Redundancy(size=5, noise=0.3).joint()
    p = table_of(joint)
    ratio = (p / p.sum(2, keepdim=True) / p.sum((0, 1))).log()
    expected = infonce_optimum(joint, ("a", "b"), ("c",), 17).value
    assert float(infonce_of(ratio, p, 17)) == pytest.approx(expected, abs=1e-7)


def test_no_sum_of_scores_tells_an_xor() -> None:
    best = summed_optimum(XOR(bits=2).joint(), "a", "b", "c", 16)
    assert best.value == pytest.approx(math.log(16), abs=1e-6)
    assert best.no_information == math.log(16)


def test_a_second_field_that_tells_nothing_adds_nothing() -> None:
    joint = Uniqueness(size=4).joint()
    alone = infonce_optimum(joint, ("a",), ("y",), 16).value
    assert summed_optimum(joint, "a", "b", "y", 16).value == pytest.approx(alone, abs=1e-3)


def test_it_lies_between_each_alone_and_both_fused_and_no_other_sum_is_better() -> None:
    joint, batch = Redundancy(size=4, noise=0.2).joint(), 16
    best = summed_optimum(joint, "a", "b", "c", batch).value
    fused, alone = (infonce_optimum(joint, group, ("c",), batch).value for group in (("a", "b"), ("a",)))
    assert fused + 1e-3 < best < alone - 0.05
    right = 3 * torch.eye(4, dtype=torch.float64)
    for near in (1.0, 0.7, 1.3):
        assert float(infonce_of(near * right[:, None] + near * right[None], table_of(joint), batch)) >= best - 1e-9


def test_what_an_and_tells_of_one_input_is_a_sum() -> None:
    joint = And().joint()
    fused = infonce_optimum(joint, ("b", "c"), ("a",), 32).value
    assert summed_optimum(joint, "b", "c", "a", 32).value == pytest.approx(fused, abs=1e-3)


def test_one_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        summed_optimum(XOR(bits=1).joint(), "a", "b", "c", 1)
