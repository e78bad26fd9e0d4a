"""A small batch of one positive each is solved in one piece: the value and the gradients are the float64 oracle's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_arguments import Arguments, assert_equal, random_arguments, run

import kernels
from kernels.chunked import losses, small

POSITIVES = ("mean", "logsum", "each")
"""with one positive they are the same loss"""


def one_to_one(seed: int, n: int, scale: float, size: float = 1.0) -> Arguments:
    p = random_arguments(seed, n, n, 7, scale, num_ids=1)
    ids = torch.randperm(1000)[:n]
    return replace(p, x=p.x * size, y=p.y * size, x_ids=ids, y_ids=ids.clone())


@pytest.fixture
def in_one_piece(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Lists, of each problem that was tried, whether it was solved so."""
    solve, seen = small.solve_one_to_one, []

    def solve_and_tell(*arguments):
        found = solve(*arguments)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(small, "solve_one_to_one", solve_and_tell)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("n", [1, 2, 41, 127])
def test_it_is_the_loss_of_the_oracle(positives, n, seed, in_one_piece):
    for scale in (0.0, 1.0, 14.0, 100.0, -30.0):
        p, size = one_to_one(seed, n, scale), max(1.0, abs(scale))
        assert_equal(run(positives, p, -2.5), run(positives, p, -2.5, backend="reference"), 1e-12 * size, scale)
        q = p.to(torch.float32)
        want = run(positives, q.to(torch.float64), -2.5, backend="reference")
        # a logit of size t is rounded by 6e-8 of it: so far off is a probability, and gradients are t times one
        assert_equal(run(positives, q, -2.5), want, 5e-6 * size + 1e-6 * size**2, scale)
    # of few columns all may have a logit of -100, which e^-155 is too small for
    assert n < 41 or in_one_piece == [True] * 10


def test_logits_that_no_reference_serves_are_left_to_the_general_way(seed, in_one_piece):
    """Vectors of length 6 have logits up to 3600, which float32 rounds to 1e-4; vectors of no number have none."""
    p = one_to_one(seed, 41, 100.0, size=6.0)
    assert_equal(run("mean", p.to(torch.float32)), run("mean", p, backend="reference"), 1e-3)
    assert in_one_piece == [False]
    assert kernels.multi_positive_infonce(p.x * torch.nan, p.y, 1.0, p.x_ids, p.y_ids).isnan()


def test_what_is_not_small_and_simple_is_not_solved_so(seed, in_one_piece, monkeypatch):
    p = one_to_one(seed, 9, 14.0)
    ones = torch.ones(9)
    for options in ({"symmetric": False}, {"x_weight": ones}, {"y_weight": ones}, {"exclude_self": True}):
        run("each", replace(p, options=options))
    run("mean", replace(p, y_ids=p.y_ids.flip(0)))
    run("mean", replace(p, x_ids=p.x_ids * 0, y_ids=p.y_ids * 0))
    monkeypatch.setattr(small, "CELLS", 80)
    run("mean", p)
    assert not in_one_piece
    monkeypatch.setattr(small, "CELLS", 81)
    run("mean", p)
    assert in_one_piece == [True]


@pytest.mark.parametrize("wanted", ["x", "y", "scale"])
def test_only_what_is_wanted_is_computed(wanted, seed, in_one_piece):
    p = one_to_one(seed, 23, 14.0)
    got, want = run("mean", p, wanted=wanted), run("mean", p, backend="reference")
    assert set(got) == {"value", wanted}
    assert_equal(got, {name: want[name] for name in got}, 1e-12)
    assert in_one_piece == [True]


def test_evaluation_computes_no_gradient(seed, monkeypatch):
    p = one_to_one(seed, 23, 14.0)
    monkeypatch.setattr(losses, "find_positives", lambda ids, *_: losses.OneToOne(ids))
    with torch.no_grad():
        value = kernels.multi_positive_infonce(p.x, p.y, p.scale, p.x_ids, p.y_ids)
    assert_equal({"value": value}, {"value": run("mean", p, backend="reference")["value"]}, 1e-12)
