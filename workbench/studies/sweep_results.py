"""What a sweep has found: each run as its folder tells it, and each arm over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from workbench.recipe.yaml_file import Tree
from workbench.runs.report import evaluations
from workbench.studies.sweep_runs import SweepRun
from workbench.training.metrics import HEADLINES, Best, Criterion, read

State = Literal["new", "begun", "done", "differs", "stopped", "failed"]


@dataclass(frozen=True)
class RunResult:
    """One run of a sweep, as its folder tells it."""

    arm: str
    seed: int
    run: Path
    state: State
    metrics: dict[str, float] = field(default_factory=dict)
    """the last evaluation, by names as in metrics.jsonl; empty unless the run is done"""
    best: Best | None = None
    """the best evaluation by eval.best, where the recipe names one and the run is done"""
    seconds: float = 0.0
    """spent in steps"""
    error: str | None = None
    """why there is no result: what the run failed with, or how its recipe differs from the sweep's"""

    def as_dict(self) -> Tree:
        written: Tree = asdict(self)
        return written | {"run": str(self.run)}


@dataclass(frozen=True)
class ArmResult:
    """The headline metric of an arm at the last evaluation, over the seeds that are done."""

    mean: float | None
    se: float | None
    """standard error of the mean; None for fewer than two seeds"""
    n: int
    overrides: Mapping[str, object]
    """in what the arm differs from the base"""


@dataclass(frozen=True)
class Swept:
    """A sweep, as far as it has come."""

    name: str
    folder: Path
    metric: str | None
    """the name of the headline metric as in metrics.jsonl; None where nothing was evaluated"""
    arms: dict[str, ArmResult]
    runs: list[RunResult]

    @property
    def failed(self) -> list[RunResult]:
        """The runs that will not be done by the same command."""
        return [run for run in self.runs if run.state in ("failed", "differs")]

    @property
    def finished(self) -> bool:
        return all(run.state == "done" for run in self.runs)

    def as_dict(self) -> Tree:
        """Give everything by its name, as `wb sweep --json` prints it."""
        arms = {name: asdict(arm) for name, arm in self.arms.items()}
        runs = [run.as_dict() for run in self.runs]
        return {"sweep": self.name, "folder": str(self.folder), "metric": self.metric, "arms": arms, "runs": runs}


def read_result(run: SweepRun, state: State) -> RunResult:
    """Read what a run has found from its folder."""
    records = read(run.folder / "metrics.jsonl")
    found = evaluations(records)
    last = {name: value for name, value in (found or [{}])[-1].items() if name.startswith("eval/")}
    wanted = run.recipe.eval.best
    best = Criterion.parse(wanted).best_of(found) if wanted else None
    seconds = sum(record.get("time/step", 0.0) for record in records)
    return RunResult(run.arm.name, run.seed, run.folder, state, last, best, seconds)


def find_metric(runs: Sequence[SweepRun], results: Sequence[RunResult]) -> str | None:
    """Choose the metric that stands for the sweep: eval.best where all arms name the same, else a headline, else the
    first that all have."""
    wanted = {Criterion.parse(run.recipe.eval.best).metric if run.recipe.eval.best else None for run in runs}
    if len(wanted) == 1 and (best := wanted.pop()):
        return f"eval/{best}"
    done = [run.metrics for run in results if run.metrics]
    common = [name for name in done[0] if all(name in metrics for metrics in done)] if done else []
    headlines = [name for name in common if name.rpartition("/")[2] in HEADLINES]
    return next(iter((*headlines, *common)), None)


def summarise(runs: Sequence[SweepRun], results: Sequence[RunResult], metric: str | None) -> dict[str, ArmResult]:
    """Take the mean of the metric at the last evaluation over the seeds of each arm that are done, {arm: summary}."""
    found: dict[str, list[float]] = {run.arm.name: [] for run in runs}
    for result in results:
        if result.state == "done" and metric in result.metrics:
            found[result.arm].append(result.metrics[metric])
    overrides = {run.arm.name: run.arm.overrides for run in runs}
    return {
        name: ArmResult(
            statistics.fmean(values) if values else None,
            statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
            len(values),
            overrides[name],
        )
        for name, values in found.items()
    }
