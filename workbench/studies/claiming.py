"""Puts a claim to the test: registers it, trains seeds until it is decided or the budget is spent, and rules.

The trap: seeds are counted in an order that was fixed before, so that a verdict depends on no choice among them. A run
that failed takes its seed out of the differences that need it, and is named; it is not trained until it pleases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import RunError
from workbench.recipe.yaml_file import Tree
from workbench.studies.claim import NOTHING, Claim, EndpointSection
from workbench.studies.comparability import find_conflicts
from workbench.studies.court import Answer, Judgement, Question, answer, answer_all, judge
from workbench.studies.kept_values import Value
from workbench.studies.registration import Registration, register
from workbench.studies.run_facts import RunFacts, read_facts
from workbench.studies.sweep_runs import SweepRun
from workbench.studies.sweeping import RunResult, find_state

Train = Callable[[Sequence[SweepRun]], Sequence[RunResult]]
"""trains those runs that are not done, and says how each ended"""


@dataclass(frozen=True)
class Ruling:
    """The verdict on a claim, and all that a report of it has to say."""

    claim: Claim
    judgement: Judgement
    registration: Registration
    values: tuple[Value, ...]
    """what it was ruled on"""
    stopped: bool = False
    """whether the training was interrupted, so that the same command goes on"""

    @property
    def left_out(self) -> list[str]:
        """A line for each run that is not counted, and why."""
        return list(dict.fromkeys(f"{one.arm} seed {one.seed}: {one.missing}" for one in self.values if one.missing))

    @property
    def first(self) -> Answer:
        """The answer that is told first: that of the only endpoint, or of the one that decided."""
        answers = self.judgement.endpoints
        return next((found for found in answers if found.finding == self.judgement.verdict), answers[0])

    def as_dict(self) -> Tree:
        """Make what `--json` prints."""
        first, judgement = self.first, self.judgement
        return {
            "claim": self.claim.section.claim,
            "source": self.claim.section.source,
            "verdict": judgement.verdict,
            "reason": judgement.reason,
            "open": judgement.open,
            "estimate": first.estimate,
            "low": None if math.isinf(first.low) else first.low,
            "high": None if math.isinf(first.high) else first.high,
            "e_value": first.e_value,
            "seeds": judgement.seeds,
            "controls": {
                "positive": [found.as_dict() for found in judgement.positive],
                "negative": [found.as_dict() for found in judgement.negative],
            },
            "endpoints": [
                {"metric": endpoint.metric, "at": endpoint.at, **found.as_dict()}
                for endpoint, found in zip(self.claim.section.endpoint, judgement.endpoints, strict=True)
            ],
            "registration": self.registration.as_dict(),
            "left_out": self.left_out,
        }


def list_claim_runs(claim: Claim, folder: Path, seeds: Sequence[int]) -> list[SweepRun]:
    """List the runs of the arms that the claim names, of these seeds."""
    arms = {arm.name for arm in claim.arms}
    return [run for run in claim.sweep.runs(folder, seeds) if run.arm.name in arms]


def prove(claim: Claim, folder: Path, train: Train, most: int | None = None) -> Ruling:
    """Register the claim, then train and rule, seed by seed, until more seeds could change nothing.

    Args:
        folder: the sweep's, where runs lie or are made.
        train: trains runs; it is asked for all arms of a few seeds at a time.
        most: go no further than so many seeds this time.

    Raises RunError where a run was made with another recipe, or runs are not comparable.
    """
    registration, done = register(claim, folder), dict[tuple[str, int], RunFacts]()
    ruling, seeds = rule(claim, folder, registration, done=done), claim.seeds[:most]
    # nothing can be decided before `least`, so these may as well be trained side by side
    for count in range(min(claim.least, len(seeds)), len(seeds) + 1):
        if ruling.stopped or not ruling.judgement.open:
            break
        results = train(list_claim_runs(claim, folder, seeds[:count]))
        failed = [run for run in results if run.state == "failed"]
        stopped = any(run.state == "stopped" for run in results)
        ruling = rule(claim, folder, registration, failed, stopped=stopped, done=done)
    return ruling


def rule(
    claim: Claim,
    folder: Path,
    registration: Registration,
    failed: Sequence[RunResult] = (),
    *,
    stopped: bool = False,
    done: dict[tuple[str, int], RunFacts] | None = None,
) -> Ruling:
    """Rule on the runs that there are.

    Args:
        failed: runs that failed, which are not counted.
        stopped: whether the training was interrupted.
        done: {(arm, seed): run} of runs that were read before, to which those that are finished are added.

    Raises RunError where a run was made with another recipe, or runs differ in what they were evaluated by.
    """
    runs = _read(claim, folder, {} if done is None else done)
    endpoints = claim.section.endpoint
    names = [one.name for one in endpoints]
    arms = {arm: [run for (name, _), run in runs.items() if name == arm] for arm, _ in runs}
    groups = list(arms.values()) if claim.section.across == "data" else None  # the runs of an arm never differ in data
    conflicts = find_conflicts(list(runs.values()), names, [one.at for one in endpoints], with_same_data=groups)
    if conflicts:
        raise RunError("these runs are not comparable:\n" + "\n".join(f"  {line}" for line in conflicts))
    errors = {(run.arm, run.seed): f"failed: {run.error}" for run in failed}
    values = [
        Value(arm, seed, one.name, one.at, None, why, None, None)
        for (arm, seed), why in errors.items()
        for one in endpoints
    ]
    for key, facts in runs.items():
        if key not in errors:
            values += [_read_value(key, facts, endpoint) for endpoint in endpoints]
    return rule_on(values, claim, registration, stopped=stopped)


def _read_value(key: tuple[str, int], facts: RunFacts, endpoint: EndpointSection) -> Value:
    missing = facts.explain_missing(endpoint.name, endpoint.at)
    value = None if missing else facts.value(endpoint.name, endpoint.at)
    return Value(*key, endpoint.name, endpoint.at, value, missing, facts.version, facts.torch)


def rule_on(values: Sequence[Value], claim: Claim, registration: Registration, *, stopped: bool = False) -> Ruling:
    """Rule on values, of runs that there are or that there were (`kept_values`)."""
    endpoints, controls = claim.section.endpoint, claim.section.controls
    alpha, g = claim.section.alpha, claim.section.g

    asked = [(claim.section.contrast.question, one) for one in endpoints]
    differences = [(question, subtract(values, claim.seeds, question, one)) for question, one in asked]
    answers = answer_all(differences, alpha, g)
    positive, negative = (
        [answer(one.question, subtract(values, claim.seeds, one.question, endpoints[0]), alpha, g) for one in kind]
        for kind in (controls.positive, controls.negative)
    )
    return Ruling(claim, judge(answers, positive, negative), registration, tuple(values), stopped)


def _read(claim: Claim, folder: Path, done: dict[tuple[str, int], RunFacts]) -> dict[tuple[str, int], RunFacts]:
    """Read the runs that have begun, {(arm, seed): run}. Raises RunError where one is of another recipe."""
    found = dict[tuple[str, int], RunFacts]()
    for run in list_claim_runs(claim, folder, claim.seeds):
        key = run.arm.name, run.seed
        if key in done:
            found[key] = done[key]
            continue
        state, differs = find_state(run)
        if state == "differs":
            lines = "".join(f"\n  {line}" for line in differs)
            raise RunError(
                f"{run.folder} was made with another recipe than the claim's sweep asks for:{lines}\n"
                "give another --run, or `wb sweep ... --fresh` sets it aside"
            )
        if state != "new":
            found[key] = read_facts(run.folder, run.recipe)
            if found[key].finished:
                done[key] = found[key]
    return found


def subtract(
    values: Sequence[Value], seeds: Sequence[int], question: Question, endpoint: EndpointSection
) -> list[float]:
    """Take the differences of a question's arms by an endpoint, in the order of the seeds; a seed that lacks one of
    them has none."""
    asked = [one for one in values if (one.metric, one.at) == (endpoint.name, endpoint.at)]
    found = {(one.arm, one.seed): one.value for one in asked} | {(NOTHING, seed): 0.0 for seed in seeds}
    pairs = [(found.get((question.a, seed)), found.get((question.b, seed))) for seed in seeds]
    return [a - b for a, b in pairs if a is not None and b is not None]
