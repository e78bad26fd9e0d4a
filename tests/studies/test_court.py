"""Verdicts on differences that are given: each of the five, when it is reached, and that noise is rarely convicted."""

import math
import random

import numpy as np
import pytest

from workbench.studies import e_process
from workbench.studies.court import Answer, Expected, Finding, Question, answer, answer_all, judge

NOISE = (0.1, -0.2, 0.15, -0.05, 0.02, -0.12, 0.08, 0.03)
"""about 0, with a deviation of .12"""


def shifted(effect: float, n: int = 8) -> list[float]:
    return [effect + x for x in NOISE[:n]]


@pytest.mark.parametrize(
    ("effect", "expect", "margin", "finding"),
    [
        (-1.0, "less", None, "supported"),
        (-1.0, "greater", None, "refuted"),
        (1.0, "greater", 0.5, "supported"),
        (1.0, "less", 0.5, "refuted"),
        (0.0, "less", 0.5, "no effect beyond the margin"),
        (0.0, "less", None, "undecided"),
        (0.0, "less", 0.01, "undecided"),
        (0.0, "equal", 0.5, "supported"),
        (-1.0, "equal", 0.5, "refuted"),
        (0.5, "equal", 0.5, "undecided"),
    ],
)
def test_findings(effect: float, expect: Expected, margin: float | None, finding: Finding) -> None:
    assert answer(Question("a", "b", expect, margin), shifted(effect), 0.05).finding == finding


def test_an_effect_within_the_margin_is_one() -> None:
    assert Question("a", "b", "less", 0.9).judge(-0.5, -0.1) == "supported"
    assert Question("a", "b", "less", 0.9).judge(-0.5, 0.1) == "no effect beyond the margin"
    assert Question("a", "b", "less", 0.3).judge(-0.5, 0.1) == "undecided"


def test_an_answer_comes_at_the_first_seed_that_decides_and_stays() -> None:
    question, differences = Question("a", "b", "less"), shifted(-1.0)
    assert answer(question, differences[:4], 0.05).finding == "undecided"
    five = answer(question, differences[:5], 0.05)
    assert (five.finding, five.seeds) == ("supported", 5)
    assert five.e_value == pytest.approx(e_process.e_value(differences[:5]))
    assert answer(question, [*differences[:5], 50.0, 80.0, 90.0], 0.05) == five


def test_the_evidence_for_equality_is_that_against_the_margin() -> None:
    found = answer(Question("a", "b", "equal", 0.5), shifted(0.0), 0.05)
    used = shifted(0.0)[: found.seeds]
    assert found.e_value == min(e_process.e_value(used, 0.5), e_process.e_value(used, -0.5))
    assert found.e_value >= 20
    assert -0.5 <= found.low < found.high <= 0.5


def test_how_many_seeds_it_would_take() -> None:
    question = Question("a", "b", "less")
    small = answer(question, shifted(-0.06), 0.05)
    assert small.needed is not None
    assert small.needed > 8
    repeated = [-0.06 + x for x in np.resize(NOISE, 4 * small.needed)]
    assert 0.5 * small.needed < answer(question, repeated, 0.05).seeds < 2 * small.needed
    assert answer(question, [0.1, -0.1, 0.1, -0.1], 0.05).needed is None
    assert answer(Question("a", "b", "less", 0.2), [0.1, -0.1, 0.1, -0.1], 0.05).needed is not None
    assert answer(question, [], 0.05).seeds == 0


def test_several_endpoints_are_asked_after_holm() -> None:
    """Five seeds decide at .05, not at .025: the second endpoint is asked at .05 only once the first is decided."""
    strong, weak = Question("a", "b", "less"), Question("a", "b", "greater")
    five, eight = shifted(0.6, 5), shifted(-2.0, 8)
    assert answer(weak, five, 0.05).finding == "supported"
    assert answer(weak, five, 0.025).finding == "undecided"
    assert [found.finding for found in answer_all([(weak, five), (weak, five)], 0.05)] == ["undecided", "undecided"]
    assert [found.finding for found in answer_all([(weak, five), (strong, eight)], 0.05)] == ["supported", "supported"]
    assert [found.finding for found in answer_all([(strong, eight)], 0.05)] == ["supported"]


def found(finding: Finding, expect: Expected = "less") -> Answer:
    return Answer(Question("a", "b", expect, 0.1), finding, 6, -0.2, -0.3, -0.1, 30.0, 9)


@pytest.mark.parametrize(
    ("endpoints", "positive", "negative", "verdict", "more"),
    [
        (["supported"], [], [], "supported", False),
        (["supported"], ["supported"], ["supported"], "supported", False),
        (["refuted"], ["supported"], ["undecided"], "refuted", False),
        (["no effect beyond the margin"], ["supported"], [], "no effect beyond the margin", False),
        (["undecided"], ["supported"], [], "undecided", True),
        (["supported"], ["undecided"], [], "blind", True),
        (["no effect beyond the margin"], ["supported", "undecided"], [], "blind", True),
        (["supported"], ["refuted"], [], "blind", False),
        (["supported"], ["no effect beyond the margin"], [], "blind", False),
        (["supported"], ["supported"], ["refuted"], "blind", False),
        (["supported", "undecided"], [], [], "undecided", True),
        (["supported", "refuted"], [], [], "refuted", False),
        (["supported", "no effect beyond the margin"], [], [], "no effect beyond the margin", False),
    ],
)
def test_verdicts(
    endpoints: list[Finding], positive: list[Finding], negative: list[Finding], verdict: str, more: bool
) -> None:
    controls = [found(finding, "equal") for finding in negative]
    given = judge([found(f) for f in endpoints], [found(f) for f in positive], controls)
    assert (given.verdict, given.open) == (verdict, more)
    assert given.reason


def test_a_negative_control_of_a_sign_must_not_have_it() -> None:
    assert judge([found("supported")], negative=[found("supported", "less")]).verdict == "blind"
    assert judge([found("supported")], negative=[found("undecided", "less")]).verdict == "supported"


def test_questions_that_are_none() -> None:
    for wrong in (
        ("a", "a", "less", None),
        ("a", "b", "equal", None),
        ("a", "b", "less", 0.0),
        ("a", "b", "less", math.inf),
    ):
        with pytest.raises(ValueError):
            Question(*wrong)


def test_noise_is_rarely_convicted_by_any_of_many_looks() -> None:
    """A true difference at the margin's edge and one of 0: every wrong answer is counted, at any seed up to 40."""
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    draw, tries, alpha = np.random.default_rng(seed), 150, 0.1
    for truth, wrong in ((0.0, {"supported", "refuted"}), (-0.5, {"no effect beyond the margin", "refuted"})):
        question = Question("a", "b", "less", 0.5)
        given = [answer(question, draw.normal(truth, 0.8, 40).tolist(), alpha).finding for _ in range(tries)]
        errors = sum(finding in wrong for finding in given)
        assert errors <= alpha * tries + 3 * math.sqrt(alpha * (1 - alpha) * tries)
