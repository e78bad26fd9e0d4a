"""Trains the runs of a sweep: what is done is kept, what was begun goes on, what another recipe made is named.

The trap: a sweep's file changes between two commands. A run that was made with another recipe looks like all others in
its folder, and its numbers would stand beside those of the new one; so the recipe in each folder is compared with the
one that the file asks for, key by key, and a run that differs is neither trained on nor counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import RecipeError, writing
from workbench.recipe.schema import load_recipe
from workbench.runs.folder import Run
from workbench.runs.resume_rules import MAY_MOVE, flatten, is_in
from workbench.studies.machine import share_threads
from workbench.studies.room import choose_at_once, refuse_hopeless
from workbench.studies.side_by_side import Failed, Job, Outcome, Progress, train_all
from workbench.studies.sweep_results import ArmResult, RunResult, State, Swept, find_metric, read_result, summarise
from workbench.studies.sweep_runs import FILE, Sweep, SweepRun, find_runs, is_copy
from workbench.training import checkpoint_files

SAME = ("name", "log", "callbacks", "checkpoint", "parallel", "data.max_bad", "train.microbatch")
"""keys of a recipe that leave what a run finds as it is, but for roundings"""


@dataclass
class Sweeping:
    """A sweep that is being trained, for those who watch it."""

    runs: Sequence[SweepRun]
    at_once: int = 1
    results: dict[int, RunResult] = field(default_factory=dict)
    """{place of a run: its result}, of those that are not to be trained, or not any more"""
    progress: dict[int, Progress] = field(default_factory=dict)
    """{place of a run: how far it is}, of those that are to be trained"""

    def summarise(self) -> dict[str, ArmResult]:
        results = list(self.results.values())
        return summarise(self.runs, results, find_metric(self.runs, results))

    @property
    def seconds_left(self) -> float | None:
        """Estimate the time until the last run ends, from the steps that were taken here; None before there are any."""
        now, rates = time.monotonic(), list[float]()
        for run in self.progress.values():
            if run.step > run.first and run.state == "running":
                rates.append((now - run.began) / ((run.step - run.first) / run.steps))
        rates += [run.seconds for run in self.results.values() if run.state == "done" and run.seconds]
        if not rates:
            return None
        each = statistics.fmean(rates)
        return sum(each * (1 - run.share) for run in self.progress.values()) / self.at_once


def find_state(run: SweepRun) -> tuple[State, list[str]]:
    """Look at the folder of a run; returns its state, and a line for each key in which its recipe differs."""
    folder, done = Run(run.folder), (run.folder / "DONE").exists()
    # before its first step there is nothing of another recipe in a folder
    if not folder.exists or not (
        done or any(map(checkpoint_files.step_of, checkpoint_files.saved(folder.checkpoints)))
    ):
        return "new", []
    try:
        old = flatten(load_recipe(run.folder / "recipe.yaml").as_dict())
    except RecipeError as error:
        return "differs", str(error).splitlines()
    new = flatten(run.recipe.as_dict())
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and not is_in(k, SAME))
    if not keys or (all(is_in(key, MAY_MOVE) for key in keys) and folder.has_data_of(run.recipe)):
        return "done" if done else "begun", []
    return "differs", [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in keys]


def train_sweep(
    sweep: Sweep,
    folder: Path | None = None,
    *,
    jobs: int | None = None,
    fresh: bool = False,
    seeds: Sequence[int] | None = None,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[Sweeping], None] = lambda _: None,
    on_done: Callable[[RunResult], None] = lambda _: None,
) -> Swept:
    """Train what a sweep lacks, and read the rest. A run that fails leaves the others alone.

    A KeyboardInterrupt lets every run finish its step and save, and returns what there is. Raises RecipeError and
    ValueError for what no run can be without: parts that do not fit, data that are missing.

    Args:
        folder: where the runs lie, if not in `sweep.folder`.
        jobs: runs at once; default: the number of GPUs, or of cores, that memory allows.
        fresh: set runs aside that were made with another recipe, and train them anew.
        seeds: in the place of the sweep's own.
        say: gets a line for people about what is left out, and why.
        watch: sees the sweep a few times a second.
        on_done: gets each run that has just ended.
    """
    below = folder or sweep.folder
    runs = sweep.runs(below, seeds)
    keep_file(sweep, below)
    mine = {run.folder for run in runs}
    others = [path.name for *_, path in find_runs(below) if path not in mine]
    if others:
        say(f"{below} has {len(others)} more runs, which this sweep does not ask for: {', '.join(others)}")
    results = train_runs(runs, jobs, fresh=fresh, say=say, watch=watch, on_done=on_done)
    metric = find_metric(runs, results)
    return Swept(sweep.name, below, metric, summarise(runs, results, metric), results)


def keep_file(sweep: Sweep, folder: Path) -> None:
    """Keep what the sweep asks for in its folder, where `wb compare` and `wb claim` read it.

    Raises OSError, and ValueError where a file of somebody's own has the name.
    """
    file = folder / FILE
    if file.is_file():
        if file.read_text(encoding="utf-8") == sweep.text:
            return
        if not is_copy(file):
            raise ValueError(f"{file} is a file of your own, which a sweep's copy would replace: take another --run")
    draft = folder / f".{FILE}.{time.monotonic_ns()}"  # tasks of an array may do so at once
    with writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(sweep.text, encoding="utf-8")
        draft.replace(file)


def train_runs(
    runs: Sequence[SweepRun],
    jobs: int | None = None,
    *,
    fresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[Sweeping], None] = lambda _: None,
    on_done: Callable[[RunResult], None] = lambda _: None,
) -> list[RunResult]:
    """Train those runs that are not done, and return all of them in their order; `train_sweep` says the rest."""
    sweeping, todo = Sweeping(runs), list[int]()
    for place, run in enumerate(runs):
        state, differs = find_state(run)
        if state == "differs" and not fresh:
            sweeping.results[place] = _differs(run, differs)
            say(f"{run.name} is left out: {sweeping.results[place].error}")
        elif state == "done":
            sweeping.results[place] = read_result(run, "done")
        else:
            todo.append(place)
    if todo:
        _train(sweeping, todo, jobs, say, watch, on_done)
    return [sweeping.results[place] for place in range(len(runs))]


def _train(
    sweeping: Sweeping,
    todo: Sequence[int],
    jobs: int | None,
    say: Callable[[str], None],
    watch: Callable[[Sweeping], None],
    on_done: Callable[[RunResult], None],
) -> None:
    """Train the runs at these places, and enter their results."""
    chosen = [sweeping.runs[place] for place in todo]
    refuse_hopeless(chosen)
    for run in chosen:
        _set_aside(run, say)
    sweeping.at_once = choose_at_once(chosen, jobs, say)
    threads = share_threads(sweeping.at_once)

    def see(progress: Sequence[Progress]) -> None:
        sweeping.progress = dict(zip(todo, progress, strict=True))
        watch(sweeping)

    tasks = [Job(run.recipe, run.folder, run.folder.parent / "logs" / f"{run.name}.txt") for run in chosen]
    try:
        with closing(train_all(tasks, sweeping.at_once, see, threads=threads, wait=True)) as outcomes:
            for index, outcome in outcomes:
                result = _result(chosen[index], outcome)
                sweeping.results[todo[index]] = result
                on_done(result)
    except KeyboardInterrupt:  # runs have saved; whoever asks for the same again goes on from there
        for place in todo:
            if place not in sweeping.results:
                stopped = Failed("Stopped", "stopped; the same command goes on")
                sweeping.results[place] = _result(sweeping.runs[place], stopped)


def _set_aside(run: SweepRun, say: Callable[[str], None]) -> None:
    """Rename the folder of a run that another recipe made. Raises RunHeld where a process trains in it.

    What is looked at twice may have changed: another `--fresh` on this folder has begun the run anew by now.
    """
    if find_state(run)[0] == "differs":
        with Run(run.folder) as folder:
            folder.hold()
            if find_state(run)[0] == "differs":
                folder.set_aside(say)


def _result(run: SweepRun, outcome: Outcome) -> RunResult:
    if not isinstance(outcome, Failed):
        return read_result(run, "done")
    stopped = outcome.kind == "Stopped"
    if stopped and find_state(run)[0] == "done":  # in its last step
        return read_result(run, "done")
    state = "stopped" if stopped else "failed"
    return RunResult(run.arm.name, run.seed, run.folder, state, error=outcome.said)


def _differs(run: SweepRun, differs: Sequence[str]) -> RunResult:
    said = f"it was made with another recipe ({'; '.join(differs)}): --fresh sets it aside and trains it anew"
    return RunResult(run.arm.name, run.seed, run.folder, "differs", error=said)
