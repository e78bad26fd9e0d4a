"""`workbench.train` and `workbench.sweep`: what `wb pretrain` and `wb sweep` do, called from a script or a notebook.

The trap: Python hands Ctrl-C to the main thread only. There, a notebook's included, the first one finishes the step,
saves and returns what there is. A training in another thread goes on, as that thread was not what was interrupted; it
stops and saves when its `stop` is set, or when the main thread has ended and nothing but this keeps the process alive.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.engine import Callback, Engine, Logs
from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.recipe.yaml_file import read_tree, remember_lines, set_key, split_key
from workbench.runs.cost import missing_data
from workbench.runs.report import evaluations
from workbench.runs.train import train as train_recipe
from workbench.studies.sweep import read_sweep
from workbench.studies.sweep_results import Swept
from workbench.studies.sweeping import train_sweep
from workbench.training.metrics import Best, Record

__all__ = ["Training", "sweep", "train"]


@dataclass(frozen=True)
class Training:
    """What a training came to."""

    run: Path | None
    """its folder, for `workbench.load`; None where nothing was kept"""
    step: int
    steps: int
    metrics: dict[str, float]
    """the last evaluation, by names as in metrics.jsonl"""
    best: Best | None
    """the best evaluation by eval.best, where the recipe names one"""
    records: list[Record]
    """every line of metrics.jsonl"""

    @property
    def finished(self) -> bool:
        """Whether it has reached its end; else the same call goes on."""
        return self.step >= self.steps


class _Stop(Callback):
    """Stops a training politely when an event says so, or when the main thread has ended."""

    def __init__(self, stop: threading.Event | None) -> None:
        self._stop = stop

    def on_step(self, engine: Engine, logs: Logs) -> None:
        asked = self._stop is not None and self._stop.is_set()
        if asked or not threading.main_thread().is_alive():
            engine.stop_requested = True


def train(
    recipe: str | Path | Mapping[str, object],
    run: str | Path | Literal[False] | None = None,
    *,
    fresh: bool = False,
    show: bool = True,
    stop: threading.Event | None = None,
    **overrides: object,
) -> Training:
    """Train a recipe, as `wb pretrain` does; called again, it goes on where it was stopped.

        workbench.train("emoji_ito.yaml", run="runs/fast", **{"train.lr": 1e-3, "train.for": "2 epochs"})

    Ctrl-C finishes the step, saves and returns a Training that is not `finished`. Raises RecipeError for a wrong
    recipe, and ValueError or OSError for what ends a run: another recipe in its folder, missing data, a full disk.

    Args:
        recipe: a file, the name of a shipped one, or the recipe itself as a dict.
        run: its folder; default: runs/NAME. False keeps nothing.
        fresh: set aside what the folder holds, and begin anew.
        show: write progress to stderr.
        stop: set from another thread, it ends the training as Ctrl-C does.
        overrides: {dotted key: value}.
    """
    found = _read(recipe, overrides)
    folder = None if run is False else Path(run) if run is not None else Path("runs") / found.name
    if not (folder and (folder / "DONE").exists()) and (missing := missing_data(found)):
        raise ValueError(missing)
    say = _say if show else _say_nothing
    outcome = train_recipe(found, folder, fresh=fresh, say=say, console=show, callbacks=[_Stop(stop)])
    last = (evaluations(outcome.records) or [{}])[-1]
    metrics = {name: value for name, value in last.items() if name.startswith("eval/")}
    return Training(folder, outcome.step, outcome.steps, metrics, outcome.best, outcome.records)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _say_nothing(_: str) -> None: ...


def _read(recipe: str | Path | Mapping[str, object], overrides: Mapping[str, object]) -> Recipe:
    """Read a recipe with overrides whose values are Python's. Raises RecipeError."""
    tree, lines = (dict(recipe), {}) if isinstance(recipe, Mapping) else read_tree(recipe)
    for key, value in overrides.items():
        path, plain = split_key(key), _plain(value)
        if not all(path):
            raise RecipeError(f"'{key}': write a key as in a recipe, as train.lr")
        remember_lines(lines, path, plain, f"{key}={value!r}")
        tree = set_key(tree, path, plain)
    return parse_recipe(tree, lines)


def _plain(value: object) -> object:
    """Return a value as YAML would have it: a path is a text, a tuple a list."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def sweep(
    sweep: str | Path,
    run: str | Path | None = None,
    *,
    jobs: int | None = None,
    fresh: bool = False,
    show: bool = True,
    **overrides: object,
) -> Swept:
    """Train the arms of a sweep over its seeds, as `wb sweep` does; called again, it goes on where it was stopped.

        found = workbench.sweep("sweeps/ito_ablation", jobs=2)
        found.arms["ito"].mean, found.arms["ito"].se, [run.metrics for run in found.runs]

    Ctrl-C lets every run finish its step and save, and returns what there is: `finished` is false then. A run that
    fails leaves the others alone; it is in `failed`. Raises RecipeError and ValueError for what no run can be without.

    Args:
        sweep: a file, a folder that it began, or the name of a shipped one.
        run: the folder of its runs; default: runs/NAME.
        jobs: runs at once; default: one for each core or GPU, as memory allows.
        fresh: set aside the runs that another recipe made, and train those anew.
        show: write progress to stderr.
        overrides: {dotted key: value} in every arm.
    """
    found = read_sweep(sweep, values={key: _plain(value) for key, value in overrides.items()})
    folder = Path(run) if run is not None else None
    if not show:
        return train_sweep(found, folder, jobs=jobs, fresh=fresh)
    from workbench.studies.sweep_report import SweepProgress

    with SweepProgress() as progress:
        return train_sweep(
            found, folder, jobs=jobs, fresh=fresh, say=progress.say, watch=progress.watch, on_done=progress.on_done
        )
