"""A line-up: objectives x seeds on one synthetic task, trained in parallel processes and judged against exact theory.

The trap: processes are spawned, not forked, and each takes one thread: two runs on two cores beat one run on two
threads, because the matrices are small.
"""

from __future__ import annotations

import multiprocessing as mp
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.recipe import Recipe, parse_recipe
from workbench.recipe_file import apply_override, merge, read_tree, shipped_recipes
from workbench.types import Modality
from workbench.verdict import verdict

DEFAULT = ("clip", "symile", "confu")
DEFAULT_OF_TWO = ("clip", "siglip")
"""Symile and ConFu begin at three modalities"""


@dataclass(frozen=True)
class Result:
    """One run of the line-up; losses in nats on fresh samples at the training batch."""

    objective: str
    seed: int
    accuracy: float
    chance: float
    bayes: float
    loss: float
    loss_se: float
    floor: float | None
    no_information_loss: float | None
    recovered: float | None
    verdict: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def arm(task: dict[str, Any], objective: str, seed: int, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of one run: the objective's shipped one (or the common parent), on this task. Raises RecipeError."""
    own = shipped_recipes() / "synth" / f"{objective}.yaml"
    parent, lines = read_tree(own if own.is_file() else shipped_recipes() / "_base" / "synth.yaml")
    tree: dict[str, Any] = {"objective": objective, **parent, "seed": seed}
    tree["data"]["task"] = task
    lines[("objective",)] = f"--objective {objective}"
    lines[("data", "task")] = f"--task {task['name']}"
    for override in overrides:
        if override.startswith("data."):  # the task has to be known before its encoders are
            tree = apply_override(tree, lines, override)
    tree = _with_encoders(tree, parse_recipe(tree, lines).data.build().modalities)
    for override in overrides:
        tree = apply_override(tree, lines, override)
    return parse_recipe(tree, lines)


def _with_encoders(tree: dict[str, Any], modalities: Mapping[str, Modality]) -> dict[str, Any]:
    """The recipe with an encoder for each of the task's modalities: the one of that name, else by its kind."""
    named: dict[str, Any] = tree["model"]["encoders"]
    towers, _ = read_tree(shipped_recipes() / "_base" / "towers.yaml")
    by_kind = towers["model"].pop("encoders") | {"vector": next(iter(named.values()))}
    if any(modality.kind != "vector" for modality in modalities.values()):
        tree = merge(tree, towers)
    encoders = {name: named.get(name, by_kind[modality.kind]) for name, modality in modalities.items()}
    return {**tree, "model": {**tree["model"], "encoders": encoders}}


def default(task: str, overrides: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The objectives that a task of so many modalities allows. Raises RecipeError as `arm` does."""
    return DEFAULT if len(arm({"name": task}, "clip", 0, overrides).model.encoders) > 2 else DEFAULT_OF_TWO


def run(
    recipes: list[tuple[str, Recipe]], folder: Path | None, progress: Callable[[float], None] = lambda _: None
) -> Iterator[Result]:
    """Train every (objective, recipe) in spawned processes and yield results as they come; `progress` gets steps done.

    With a folder each run keeps its run folder below it and is resumed, or read when it is finished.
    """
    context = mp.get_context("spawn")
    steps = context.Value("q", 0)
    workers = min(len(recipes), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_own_process, initargs=(steps,)) as pool:
        waiting = {
            pool.submit(_train, objective, recipe.as_dict(), folder and folder / f"{objective}-seed{recipe.seed}")
            for objective, recipe in recipes
        }
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                progress(steps.value)
                for future in done:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_steps: Any = None


def _own_process(steps: Any) -> None:
    import torch

    global _steps
    _steps = steps
    torch.set_num_threads(1)


def _train(objective: str, tree: dict[str, Any], folder: Path | None) -> Result:
    """One run, in its own process."""
    from workbench.build import build_engine, build_parts
    from workbench.engine import Callback
    from workbench.metrics import Metrics
    from workbench.parallel import Parallel
    from workbench.training import train

    class Count(Callback):
        def on_step(self, engine: Any, logs: Any) -> None:
            with _steps.get_lock():
                _steps.value += 1

    recipe = parse_recipe(tree)
    if folder is not None:
        outcome = train(recipe, folder, callbacks=[Count()])
        records, weight = outcome.records, build_parts(recipe).objective.total_weight
    else:
        parts, metrics = build_parts(recipe), Metrics(None)
        engine = build_engine(parts, Parallel(), metrics)
        engine.callbacks.append(Count())
        engine.fit()
        records, weight = metrics.records, parts.objective.total_weight
    return _judge(objective, recipe.seed, records, weight)


def _judge(objective: str, seed: int, records: list[dict[str, Any]], weight: float) -> Result:
    facts = next(record for record in reversed(records) if "eval/synthetic/loss" in record)
    seconds = sum(record.get("time/step", 0.0) for record in records)
    names = ("accuracy", "chance", "bayes", "loss", "loss_se", "floor", "no_information_loss", "recovered")
    found = {name: facts.get(f"eval/synthetic/{name}") for name in names}
    judged = verdict(found["loss"], found["loss_se"], found["floor"], found["no_information_loss"], weight)  # type: ignore[arg-type]
    return Result(objective, seed, **found, verdict=judged, seconds=seconds)  # type: ignore[arg-type]
