"""What a run's files say when runs are compared: its recipe, its values, its curves, what it cost.

The trap: the best step was chosen by looking, the last one was not, so a run has two values of each metric and they are
never mixed. The step is chosen by the recipe's own `eval.best`, whatever metric is then read there.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml

from workbench.errors import RecipeError, RunError, did_you_mean
from workbench.recipe.schema import Recipe, load_recipe
from workbench.recipe.yaml_file import Tree
from workbench.runs.folder import Run
from workbench.runs.report import evaluations
from workbench.runs.resume_rules import flatten
from workbench.studies.wording import Metric
from workbench.training.metrics import Best, Criterion, Record, read

At = Literal["last", "best"]
"""which evaluation of a run is read"""
Reading = Literal["last", "best", "decline"]
"""how a run's one number is made of its evaluations; decline: by which share of its value at the best step a metric has
got worse until the last one. Of the metric that chose the step it cannot be negative; of another one it is fair"""


@dataclass(frozen=True)
class Cost:
    """What a run took; None where its files do not say."""

    seconds: float
    """spent in optimizer steps"""
    samples_per_second: float | None
    """the median over steps"""
    peak_bytes: int | None
    """the most memory of the process that finished it: of the GPU where it had one"""

    def read(self, metric: str) -> float | None:
        """Read one of the COSTS by its name."""
        return {"cost/seconds": self.seconds, "cost/samples_per_second": self.samples_per_second}[metric]


COSTS = ("cost/seconds", "cost/samples_per_second")
"""what a claim may ask for in the place of a metric of an evaluation; memory is left out, as most of a process's is not
the model's"""


@dataclass(frozen=True)
class RunFacts:
    """A run folder, read once."""

    path: Path
    recipe: Mapping[str, object]
    """{dotted key: value} of the resolved recipe, defaults written out where its components can be imported"""
    seed: int
    records: list[Record]
    finished: bool
    fingerprint: str | None
    """of the training data; None where the recipe alone says which they are"""
    version: str | None
    """of the program that trained it"""
    torch: str | None
    """the version of its torch"""
    peak_bytes: int | None

    @cached_property
    def evaluations(self) -> list[Record]:
        return evaluations(self.records)

    @property
    def step(self) -> int:
        return self.records[-1]["step"] if self.records else 0

    @property
    def criterion(self) -> Criterion | None:
        """How the recipe chooses the best step; None where it does not."""
        wanted = self.recipe.get("eval.best")
        return Criterion.parse(wanted) if isinstance(wanted, str) else None

    @property
    def best(self) -> Best | None:
        return self.criterion.best_of(self.evaluations) if self.criterion else None

    @property
    def metrics(self) -> list[str]:
        """List the names of all metrics that it was ever evaluated by, without `eval/`, in the order of the file."""
        names = (name for record in self.evaluations for name in record if name.startswith("eval/"))
        return list(dict.fromkeys(name.removeprefix("eval/") for name in names))

    def value(self, metric: str, at: Reading) -> float | None:
        """Read a metric at the last evaluation, at the best one, or its decline, or one of the COSTS of the whole run;
        None where it was not measured."""
        if metric in COSTS:
            return self.cost.read(metric)
        if at == "decline":
            return self._decline(metric)
        if not self.evaluations or (at == "best" and self.best is None):
            return None
        step = self.best.step if at == "best" and self.best else self.evaluations[-1]["step"]
        found = [r[f"eval/{metric}"] for r in self.evaluations if r["step"] == step and f"eval/{metric}" in r]
        return found[-1] if found else None

    def _decline(self, metric: str) -> float | None:
        best, last = self.value(metric, "best"), self.value(metric, "last")
        if not best or last is None:
            return None
        return (best - last) / abs(best) * (-1 if Metric.parse(metric).better < 0 else 1)

    def curve(self, metric: str) -> dict[int, float]:
        """Read {samples seen: value} of a metric, of finite values."""
        name = f"eval/{metric}"
        return {r["samples"]: r[name] for r in self.evaluations if name in r and math.isfinite(r[name])}

    @property
    def cost(self) -> Cost:
        speeds = [r["time/samples_per_second"] for r in self.records if "time/samples_per_second" in r]
        seconds = sum(r.get("time/step", 0.0) for r in self.records)
        return Cost(seconds, statistics.median(speeds) if speeds else None, self.peak_bytes)

    def explain_missing(self, metric: str, at: Reading) -> str | None:
        """Say why the run has no number to be compared by; None where it has one."""
        if not self.finished:
            return f"not finished: step {self.step}" if self.records else "not begun"
        value = self.value(metric, at)
        if value is None:
            has = f"; it has {', '.join(self.metrics[:8])}" if self.metrics else ""
            chosen = at != "last" and self.best is None
            return "its recipe names no eval.best" if chosen else f"{metric} was not measured{has}"
        return None if math.isfinite(value) else f"its {metric} is {value}"


def read_facts(path: Path, known: Recipe | None = None) -> RunFacts:
    """Read a run folder, but for its recipe where that is `known`. Raises RunError when the folder is none, or when its
    files cannot be read."""
    run = Run(path)
    recipe = flatten(known.as_dict() if known else _read_recipe(path / "recipe.yaml"))
    seed = recipe.get("seed")
    if not isinstance(seed, int):
        raise RunError(f"{path} is not a run folder: its recipe.yaml has no seed")
    packages = _read_json(path / "environment.json").get("packages")
    versions = packages if isinstance(packages, dict) else {}
    fingerprint, peak = _read_json(run.data).get("blake2b"), _read_json(run.done).get("peak_bytes")
    version, torch = versions.get("multimodal-workbench"), versions.get("torch")
    return RunFacts(
        path=path,
        recipe=recipe,
        seed=seed,
        records=read(run.metrics),
        finished=run.done.exists(),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
        version=version if isinstance(version, str) else None,
        torch=torch if isinstance(torch, str) else None,
        peak_bytes=peak if isinstance(peak, int) else None,
    )


def _read_recipe(file: Path) -> Tree:
    """Read a run's recipe with its defaults, or as it is written where its components cannot be imported."""
    if not file.is_file():
        raise RunError(f"{file.parent} is not a run folder: it has no recipe.yaml")
    try:
        return load_recipe(file).as_dict()
    except RecipeError:
        pass
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise RunError(f"{file.parent} is not a run folder: its recipe.yaml is not what a run writes there")
    return tree


def _read_json(file: Path) -> Tree:
    """Read an object from a file; nothing where there is none, or what is no object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_metric(name: str, runs: list[RunFacts]) -> str:
    """Find the metric of this name, with or without `eval/`, in any of the runs. Raises RunError naming those that
    there are."""
    wanted = name.removeprefix("eval/")
    known = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    if wanted not in known:
        raise RunError(f"no run was evaluated by '{wanted}'{did_you_mean(wanted, known)}")
    return wanted
