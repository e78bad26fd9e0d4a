"""A comparison: arms, their means, their differences within seeds, what they cost and in what their recipes differ.

The trap: an arm whose bad runs are left out looks good. Whatever is not counted is named with its reason, and a seed
that one arm lacks is left out of a difference and counted as left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations

from workbench.errors import RunError, did_you_mean
from workbench.recipe.yaml_file import Tree
from workbench.studies.comparability import find_conflicts
from workbench.studies.grouping import Arms, diff_recipes
from workbench.studies.paired import Difference, Summary, compare_paired, subtract, summarise
from workbench.studies.run_facts import At, Cost, RunFacts, find_metric
from workbench.studies.wording import Metric, count_seeds, describe, list_words


@dataclass(frozen=True)
class Contrast:
    """By how much arm `a` is above arm `b`; None where they share no seed."""

    a: str
    b: str
    difference: Difference | None
    seeds: tuple[int, ...]
    """those that are compared"""
    unpaired: tuple[str, ...]
    """those that one of the two has alone, as `clip seed 3`"""

    def as_dict(self) -> Tree:
        none = {"mean": None, "se": None, "low": None, "high": None, "n": 0}
        facts = asdict(self.difference) if self.difference else none
        return {"a": self.a, "b": self.b, **facts, "seeds": list(self.seeds), "unpaired": list(self.unpaired)}


@dataclass(frozen=True)
class Measured:
    """A metric at the last or the best evaluation of every run."""

    metric: Metric
    at: At
    values: Mapping[str, Mapping[int, float]]
    """{arm: {seed: value}}"""
    contrasts: tuple[Contrast, ...]

    @property
    def arms(self) -> dict[str, Summary | None]:
        return {arm: summarise(list(values.values())) if values else None for arm, values in self.values.items()}

    @property
    def sentences(self) -> list[str]:
        return [describe(self.metric, c.a, c.b, c.difference) for c in self.contrasts]

    def as_dict(self) -> Tree:
        return {
            "metric": self.metric.name,
            "at": self.at,
            "arms": {arm: asdict(s) if s else {"mean": None, "se": None, "n": 0} for arm, s in self.arms.items()},
            "differences": [contrast.as_dict() for contrast in self.contrasts],
            "values": {arm: {str(seed): value for seed, value in v.items()} for arm, v in self.values.items()},
            "sentences": self.sentences,
        }


@dataclass(frozen=True)
class Comparison:
    """Everything that is said of a set of runs."""

    arms: Arms
    measured: tuple[Measured, ...]
    """the one that was asked for first stands first"""
    left_out: tuple[str, ...]
    """a line for each run that is not counted, with its reason"""
    notes: tuple[str, ...]
    """what a reader has to know of the numbers"""
    conflicts: tuple[str, ...] = field(default=())
    """in what runs differ that should not, where the user wanted them compared nevertheless"""

    @property
    def costs(self) -> dict[str, Cost]:
        """Take the median of each arm's costs over its finished runs."""
        return {arm: _typical([run.cost for run in runs if run.finished]) for arm, runs in self.arms.items()}

    @property
    def recipes(self) -> dict[str, dict[str, object]]:
        """List in what the arms' recipes differ, {key: {arm: value}}."""
        return diff_recipes({arm: runs[0] for arm, runs in self.arms.items()})

    def as_dict(self) -> Tree:
        """Make what `--json` prints: the first metric's numbers, and those of all under `metrics`."""
        return {
            **self.measured[0].as_dict(),
            "metrics": [measured.as_dict() for measured in self.measured],
            "costs": {arm: asdict(cost) for arm, cost in self.costs.items()},
            "recipes": self.recipes,
            "runs": {arm: {str(run.seed): str(run.path) for run in runs} for arm, runs in self.arms.items()},
            "left_out": list(self.left_out),
            "notes": list(self.notes),
            "conflicts": list(self.conflicts),
        }


def _typical(costs: Sequence[Cost]) -> Cost:
    def middle(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    peak = middle([cost.peak_bytes for cost in costs])
    seconds = middle([cost.seconds for cost in costs]) or 0.0
    return Cost(seconds, middle([cost.samples_per_second for cost in costs]), None if peak is None else round(peak))


def compare(
    arms: Arms,
    metrics: Sequence[str] = (),
    at: At = "last",
    against: str | None = None,
    *,
    anyway: bool = False,
) -> Comparison:
    """Compare arms by metrics, the recipe's own `eval.best` by default; `at` says which evaluation stands first.

    Args:
        against: the arm that all others are compared with; None compares every two.
        anyway: compare also runs of other data or evaluations; what differs is then told with the numbers.

    Raises RunError naming what differs, an arm or a metric that there is not, or that nothing can be compared.
    """
    if against is not None and against not in arms:
        raise RunError(f"no arm '{against}'{did_you_mean(against, arms)}")
    runs = [run for group in arms.values() for run in group]
    chosen = _choose_metrics(metrics, runs)
    has_best = any(run.criterion for run in runs)
    shown: tuple[At, ...] = (at, "best" if at == "last" else "last") if has_best else ("last",)
    if at not in shown:
        raise RunError("no recipe names eval.best, so that no step is the best one: compare --at last")
    conflicts = find_conflicts(runs, [metric.name for metric in chosen], shown)
    if conflicts and not anyway:
        raise RunError(
            "these runs are not comparable:\n"
            + "".join(f"  {line}\n" for line in conflicts)
            + "leave some out, or add --anyway to compare them all the same"
        )
    pairs = (
        [(a, b) for b, a in combinations(arms, 2)] if against is None else [(a, against) for a in arms if a != against]
    )
    measured = tuple(_measure(metric, which, arms, pairs) for metric in chosen for which in shown)
    if not any(values for one in measured for values in one.values.values()):
        missing = [f"  {run.path}: {run.explain_missing(chosen[0].name, at)}" for run in runs]
        raise RunError("no run has a number to be compared by:\n" + "\n".join(missing))
    left_out = _name_left_out(arms, chosen, shown)
    return Comparison(arms, measured, left_out, tuple(_note(runs, measured, pairs)), tuple(conflicts))


def _choose_metrics(metrics: Sequence[str], runs: list[RunFacts]) -> list[Metric]:
    """Find the metrics that are asked for, or the one that stands for these runs. Raises RunError."""
    if metrics:
        asked = [Metric.parse(text) for text in metrics]
        return [Metric(find_metric(metric.name, runs), metric.better, metric.points) for metric in asked]
    for run in runs:
        if run.criterion:
            return [Metric.parse(f"{'min' if run.criterion.less else 'max'} {run.criterion.metric}")]
    first = next((name for run in runs for name in run.metrics), None)
    if first is None:
        raise RunError("none of these runs was evaluated yet")
    return [Metric.parse(first)]


def _measure(metric: Metric, at: At, arms: Arms, pairs: Sequence[tuple[str, str]]) -> Measured:
    values: dict[str, dict[int, float]] = {
        arm: {
            run.seed: value
            for run in runs
            if run.explain_missing(metric.name, at) is None and (value := run.value(metric.name, at)) is not None
        }
        for arm, runs in arms.items()
    }
    return Measured(metric, at, values, tuple(contrast(a, values[a], b, values[b]) for a, b in pairs))


def contrast(a: str, of_a: Mapping[int, float], b: str, of_b: Mapping[int, float]) -> Contrast:
    """Compare two arms, each {seed: value}, within the seeds that both have."""
    differences = subtract(of_a, of_b)
    alone = [
        (seed, arm) for arm, own, other in ((a, of_a, of_b), (b, of_b, of_a)) for seed in own.keys() - other.keys()
    ]
    unpaired = tuple(f"{arm} seed {seed}" for seed, arm in sorted(alone))
    found = compare_paired(list(differences.values())) if differences else None
    return Contrast(a, b, found, tuple(differences), unpaired)


def _name_left_out(arms: Arms, metrics: Sequence[Metric], shown: Sequence[At]) -> tuple[str, ...]:
    lines: dict[str, None] = {}
    for arm, runs in arms.items():
        for run in runs:
            for metric in metrics:
                for at in shown:
                    if reason := run.explain_missing(metric.name, at):
                        lines[f"{arm} seed {run.seed} ({run.path}): {reason}"] = None
    return tuple(lines)


def _note(runs: Sequence[RunFacts], measured: Sequence[Measured], pairs: Sequence[object]) -> list[str]:
    """Say what the numbers do not say by themselves."""
    notes = []
    asked = len(pairs) * len(measured)
    if asked > 1:
        notes.append(
            f"{asked} differences were asked for; each interval holds with 95 % by itself, not all of them at once"
        )
    unpaired = list(dict.fromkeys(seed for one in measured for c in one.contrasts for seed in c.unpaired))
    if unpaired:
        notes.append(f"left out of differences, as the other arm lacks them ({len(unpaired)}): {list_words(unpaired)}")
    chosen = {run.criterion.metric for run in runs if run.criterion}
    if any(one.at == "best" and one.metric.name in chosen for one in measured):
        notes.append("best: the step was chosen by this very metric, which flatters it; report another split there")
    if len(versions := sorted({run.version for run in runs if run.version})) > 1:
        notes.append(f"trained by several versions of the program: {list_words(versions)}")
    if len(steps := {run.step for run in runs if run.finished}) > 1:
        notes.append(f"runs of other lengths: {list_words([str(step) for step in sorted(steps)])} steps")
    fewest = min((len(v) for one in measured for v in one.values.values()), default=0)
    if fewest == 1:
        notes.append(f"an arm has {count_seeds(1)} only: no error and no interval exist for it")
    return notes
