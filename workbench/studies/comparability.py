"""Whether runs may be compared: the same data, the same split, the same evaluation; else what differs.

The trap: an arm may be shown more of a sample than another one, as two views or three captions. That is a difference
between methods, and the data are still the same; another file, another task or another split is not. And where
`data.limit` leaves a share of the ids, or `data.noise` tells a share wrongly, the seed draws it: such data are the same
within a seed, and never across seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from workbench.recipe.schema import Recipe
from workbench.recipe.yaml_file import Tree
from workbench.runs.resume_rules import is_in
from workbench.studies.grouping import PLACES
from workbench.studies.run_facts import Reading, RunFacts

SHOWN = ("views", "captions", "captions_from", "drawings", "max_bad")
"""last words of keys below `data` that say what a step is shown of a sample"""
DRAWN = ("data.limit", "data.noise")
"""keys by which the run's seed draws training data"""


def find_conflicts(
    runs: Sequence[RunFacts],
    metrics: Sequence[str],
    at: Sequence[Reading],
    *,
    with_same_data: Iterable[Sequence[RunFacts]] | None = None,
) -> list[str]:
    """List, a line each, in what runs differ that makes their values of these metrics no matter of the arms.

    Args:
        with_same_data: groups of runs that have to have the same data; all are one by default.
    """
    if not runs:
        return []
    groups = [runs] if with_same_data is None else with_same_data
    lines = [line for same in groups if same for one, run in _pair(same) for line in _compare_data(one, run)]
    for evaluator in dict.fromkeys(metric.partition("/")[0] for metric in metrics):
        # a run without it has no value of the metric, which is said where values are read
        measured = [run for run in runs if f"eval.{evaluator}.name" in run.recipe]
        for run in measured[1:]:
            lines += _compare_keys("evaluation", measured[0], run, [f"eval.{evaluator}"])
    if set(at) & {"best", "decline"}:
        for run in runs[1:]:
            lines += _compare_keys("choice of the best step", runs[0], run, ["eval.best"])
    return list(dict.fromkeys(lines))


def _compare_keys(what: str, one: RunFacts, other: RunFacts, sections: Sequence[str]) -> Iterator[str]:
    for key in dict.fromkeys((*one.recipe, *other.recipe)):
        if is_in(key, tuple(sections)) and one.recipe.get(key) != other.recipe.get(key):
            yield _say(what, key, one, other)


def _say(what: str, key: str, one: RunFacts, other: RunFacts) -> str:
    a, b = (run.recipe.get(key, "absent") for run in (one, other))
    return f"{what}: {key} is {a} in {one.path} and {b} in {other.path}"


def _pair(same: Sequence[RunFacts]) -> Iterator[tuple[RunFacts, RunFacts]]:
    """Pair each run with one that tells what its data should be, and where the seed draws them with one of its seed."""
    for run in same:
        yield _choose_known(same), run
        if _draws(run):
            yield _choose_known([one for one in same if one.seed == run.seed]), run


def _draws(run: RunFacts) -> bool:
    return any(run.recipe.get(key) is not None for key in DRAWN)


def _choose_known(runs: Sequence[RunFacts]) -> RunFacts:
    """Choose the first run whose data are known by a fingerprint, with which others can be compared; else the first."""
    return next((run for run in runs if run.fingerprint is not None), runs[0])


def _compare_data(one: RunFacts, other: RunFacts) -> Iterator[str]:
    keys = [key for key in dict.fromkeys((*one.recipe, *other.recipe)) if is_in(key, ("data",))]
    differ = [key for key in keys if one.recipe.get(key) != other.recipe.get(key)]
    shown = [key for key in differ if key.rpartition(".")[2] in SHOWN]
    drawn = one.seed != other.seed and _draws(one) and _draws(other)
    same = one.fingerprint is not None and one.fingerprint == other.fingerprint
    for key in differ:
        moved = is_in(key, PLACES) and (same or drawn) and _name(one.recipe.get(key)) == _name(other.recipe.get(key))
        if key not in shown and not moved:
            yield _say("data", key, one, other)
    # what a step is shown is part of the digest, so digests tell only where that is the same
    if not shown and not drawn and None not in (one.fingerprint, other.fingerprint) and not same:
        a, b = one.fingerprint, other.fingerprint
        yield f"data: the training data of {one.path} ({a}) are not those of {other.path} ({b}), by their fingerprints"


def _name(place: object) -> str:
    return Path(place).name if isinstance(place, str) else repr(place)


def find_evaluation(recipe: Recipe, metric: str) -> Tree | None:
    """Find the settings of the evaluator that yields a metric; None where the recipe has none of that name."""
    spec = recipe.eval.evaluators.get(metric.partition("/")[0])
    return spec.as_dict() if spec else None
