"""The verdict on a claim, from differences within seeds alone: it may be asked after every seed, and stays valid.

The trap: "no effect was seen" is no verdict. An assay that cannot see an effect which is known to be there is blind,
and what it does not see counts for nothing; so is one that sees an effect which cannot be there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from workbench.recipe.yaml_file import Tree
from workbench.studies import e_process

Expected = Literal["less", "greater", "equal"]
Finding = Literal["supported", "refuted", "no effect beyond the margin", "undecided"]
Verdict = Literal["supported", "refuted", "no effect beyond the margin", "undecided", "blind"]


@dataclass(frozen=True)
class Question:
    """Whether arm `a` is less than, greater than or equal to arm `b`.

    Raises ValueError for an arm that is compared with itself, and for `equal` without a margin.
    """

    a: str
    b: str
    expect: Expected
    margin: float | None = None
    """differences within ± this do not matter"""

    def __post_init__(self) -> None:
        if self.a == self.b:
            raise ValueError(f"arm '{self.a}' is compared with itself")
        if self.expect == "equal" and self.margin is None:
            raise ValueError(f"{self}: equal needs a margin, within which a difference does not matter")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ValueError(f"{self}: the margin is a number above 0")

    def __str__(self) -> str:
        return f"{self.a} − {self.b} {self.expect}"

    def judge(self, low: float, high: float) -> Finding:
        """Say what a confidence sequence at ]low, high[ decides."""
        if self.expect == "equal":
            assert self.margin is not None
            inside = -self.margin <= low and high <= self.margin
            return "supported" if inside else "refuted" if low > self.margin or high < -self.margin else "undecided"
        if low > 0 or high < 0:
            return "supported" if (low > 0) == (self.expect == "greater") else "refuted"
        if self.margin is not None and -self.margin <= low and high <= self.margin:
            return "no effect beyond the margin"
        return "undecided"


@dataclass(frozen=True)
class Answer:
    """What the differences say to a question."""

    question: Question
    finding: Finding
    seeds: int
    """at which it was decided; all there are where it was not"""
    estimate: float | None
    """the mean of these differences"""
    low: float
    high: float
    """of the confidence sequence there, infinite while nothing could be decided"""
    e_value: float
    """the evidence against no difference; against a difference of the margin, where it was decided to be within"""
    needed: int | None
    """the seeds that a decision would take if the rest were like these; None where none would do"""

    @property
    def decided(self) -> bool:
        return self.finding != "undecided"

    def as_dict(self) -> Tree:
        """Make what `--json` prints of it, with None for what is infinite."""
        found = asdict(self.question) | {"finding": self.finding, "seeds": self.seeds, "estimate": self.estimate}
        bounds = {key: None if math.isinf(x) else x for key, x in (("low", self.low), ("high", self.high))}
        return found | bounds | {"e_value": self.e_value, "needed": self.needed}


def answer(question: Question, differences: Sequence[float], alpha: float, g: float = 1.0) -> Answer:
    """Answer a question by differences in the order of their seeds, at the first number of them that decides it."""
    for n in range(2, len(differences) + 1):
        low, high = e_process.find_bounds(differences[:n], alpha, g)
        if (finding := question.judge(low, high)) != "undecided":
            return _write(question, finding, differences[:n], (low, high), n, g)
    needed = _expect_seeds(question, differences, alpha, g)
    return _write(question, "undecided", differences, e_process.find_bounds(differences, alpha, g), needed, g)


def _write(
    question: Question,
    finding: Finding,
    differences: Sequence[float],
    bounds: tuple[float, float],
    needed: int | None,
    g: float,
) -> Answer:
    within = finding == "no effect beyond the margin" or (finding == "supported" and question.expect == "equal")
    effects = (-question.margin, question.margin) if within and question.margin is not None else (0.0,)
    evidence = min(e_process.e_value(differences, effect, g) for effect in effects)
    estimate = statistics.fmean(differences) if differences else None
    return Answer(question, finding, len(differences), estimate, *bounds, evidence, needed)


def _expect_seeds(question: Question, differences: Sequence[float], alpha: float, g: float) -> int | None:
    """Estimate how many seeds of this mean and scatter would decide, by whichever way is shorter."""
    if len(differences) < 2:
        return None
    mean, scatter = e_process.measure_scatter(differences)
    ways = []
    if question.margin is not None:
        ways.append(e_process.expect_seeds_for_none(mean, scatter, question.margin, alpha, g))
    # an effect beyond the margin refutes that two are equal; any effect answers the other questions
    beyond = abs(mean) - (question.margin or 0.0) if question.expect == "equal" else abs(mean)
    if scatter and beyond > 0:
        ways.append(e_process.expect_seeds_for_effect(beyond / scatter, alpha, g))
    known = [way for way in ways if way is not None]
    return max(len(differences) + 1, min(known)) if known else None


def answer_all(
    questions: Sequence[tuple[Question, Sequence[float]]], alpha: float, g: float = 1.0
) -> tuple[Answer, ...]:
    """Answer the questions of several endpoints such that any answer is wrong with probability alpha at most: Holm.

    While k are undecided each is asked at alpha / k; once one is decided, the others are asked at alpha / (k - 1).
    """
    answers = dict[int, Answer]()
    while len(answers) < len(questions):
        level = alpha / (len(questions) - len(answers))
        asked = {i: answer(*questions[i], level, g) for i in range(len(questions)) if i not in answers}
        decided = {i: found for i, found in asked.items() if found.decided}
        answers |= decided or asked
    return tuple(answers[index] for index in range(len(questions)))


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim, and the answers that it follows from."""

    verdict: Verdict
    open: bool
    """whether more seeds could change it"""
    reason: str
    """one sentence"""
    endpoints: tuple[Answer, ...]
    positive: tuple[Answer, ...]
    negative: tuple[Answer, ...]

    @property
    def seeds(self) -> int:
        """The seeds that the verdict took."""
        return max((found.seeds for found in (*self.endpoints, *self.positive)), default=0)


def judge(endpoints: Sequence[Answer], positive: Sequence[Answer] = (), negative: Sequence[Answer] = ()) -> Judgement:
    """Make the verdict of the answers for the endpoints and the controls.

    A positive control must be found, a negative one must not; else the assay is blind, whatever the endpoints say.
    """

    def give(verdict: Verdict, reason: str, *, open: bool = False) -> Judgement:
        return Judgement(verdict, open, reason, tuple(endpoints), tuple(positive), tuple(negative))

    for control in negative:
        if control.finding == ("refuted" if control.question.expect == "equal" else "supported"):
            return give("blind", f"the negative control was found ({control.question}): an effect that cannot be there")
    for control in positive:
        if control.finding in ("refuted", "no effect beyond the margin"):
            return give("blind", f"the positive control was not found ({control.question}): it is {control.finding}")
    missing = [control for control in positive if not control.decided]
    if missing:
        named = "; ".join(str(control.question) for control in missing)
        return give("blind", f"the positive control was not found ({named}): no verdict", open=True)
    findings = [found.finding for found in endpoints]
    if "refuted" in findings:
        return give(
            "refuted", "the difference is the other way" if len(findings) == 1 else "an endpoint is the other way"
        )
    if "no effect beyond the margin" in findings:
        return give("no effect beyond the margin", "an effect as large as the margin would have been seen")
    if "undecided" in findings:
        return give("undecided", _say_undecided(endpoints), open=True)
    return give("supported", "as the claim says")


def _say_undecided(endpoints: Sequence[Answer]) -> str:
    needed = [found.needed for found in endpoints if not found.decided]
    if not all(found.seeds > 1 for found in endpoints):
        return "fewer than two seeds say nothing"
    if None in needed:
        return "no number of seeds would decide it, if the rest were like these"
    return f"about {max(n for n in needed if n is not None)} seeds would decide it, if the rest were like these"
