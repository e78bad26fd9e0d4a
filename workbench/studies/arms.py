"""A line-up: objectives x seeds on one synthetic task, trained side by side and judged against exact theory.

The trap: the encoders follow from the task, whose modalities an override may change: a recipe is made in that order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synthetic.theory.truth import Truth
from workbench.build import build_parts
from workbench.data.synthetic import Synthetic
from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.recipe.yaml_file import (
    Tree,
    block,
    merge,
    read_override,
    read_tree,
    remember_lines,
    set_key,
    shipped_recipes,
)
from workbench.recipe.yaml_text import Lines
from workbench.scoring.verdict import verdict
from workbench.studies.side_by_side import Failed, Job, Progress, Trained, train_all
from workbench.studies.sweep_runs import name_run
from workbench.types import Modality

DEFAULT = ("clip", "symile", "confu")
DEFAULT_OF_TWO = ("clip", "siglip")
"""Symile and ConFu begin at three modalities"""
OPTION = re.compile(r"[,\s]+(?=[A-Za-z_][\w.]*=)")
"""what stands before each option that follows a name"""


@dataclass(frozen=True)
class Result:
    """The outcome of one run of the line-up; losses in nats on fresh samples at the training batch."""

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

    def as_dict(self) -> Tree:
        return asdict(self)


def recipe_of(task: Tree, objective: str, seed: int, overrides: tuple[str, ...] = ()) -> Recipe:
    """Make the recipe of one run, on this task. Raises RecipeError.

    Args:
        objective: a name (its shipped recipe, or else the common parent) or the file of a recipe; options may follow,
            those of the objective by their names, others by whole keys: `confu lambda=0 model.fusion=deep_set`.
        overrides: `key=value`, which win.
    """
    name, options = split_options(objective)
    parent, lines = _read_parent(name, objective)
    tree = {**parent, "seed": seed, "data": block(parent, "data") | {"task": task}}
    remember_lines(lines, ("data", "task"), task, f"--task {task['name']}")
    chosen = [(*read_override(option), f"--objective '{objective}'") for option in options]
    chosen += [(*read_override(override), f"--set {override}") for override in overrides]
    for path, value, where in chosen:
        if path[0] == "data":  # the task has to be known before its encoders are
            remember_lines(lines, path, value, where)
            tree = set_key(tree, path, value)
    tree = _with_encoders(tree, parse_recipe(tree, lines).data.build().modalities)
    for path, value, where in chosen:
        remember_lines(lines, path, value, where)
        tree = set_key(tree, path, value)
    return parse_recipe(tree, lines)


def split_options(objective: str) -> tuple[str, tuple[str, ...]]:
    """Split a name, or the file of a recipe, from the overrides that follow it."""
    name, *options = OPTION.split(objective.strip())
    keys = [option.partition("=")[0] for option in options]
    own = ["." not in key and key not in Recipe.model_fields for key in keys]
    return name, tuple(f"objective.{o}" if mine else o for o, mine in zip(options, own, strict=True))


def _read_parent(name: str, said: str) -> tuple[Tree, Lines]:
    """Read what a contender of the line-up is made of. Raises RecipeError.

    Of a recipe that trains on other data, only what makes no sense there is left out: data, evaluators, encoders.
    """
    common, own = shipped_recipes() / "_base" / "synth.yaml", shipped_recipes() / "synth" / f"{name}.yaml"
    if own.is_file():
        return read_tree(own)
    tree, lines = read_tree(common)
    if ":" in name or not name.endswith((".yaml", ".yml")):
        remember_lines(lines, ("objective",), name, f"--objective {said}")
        return tree | {"objective": name}, lines
    recipe, where = read_tree(name)
    if (block(recipe, "data").get("name") or recipe.get("data")) != "synthetic":
        model = {key: value for key, value in block(recipe, "model").items() if key in ("dim", "head", "fusion")}
        recipe = {key: value for key, value in recipe.items() if key in ("name", "objective", "train")}
        recipe |= {"model": model}
    return merge(tree, recipe), lines | where


def _with_encoders(tree: Tree, modalities: Mapping[str, Modality]) -> Tree:
    """Give the recipe an encoder for each of the task's modalities: the one of that name, else by its kind."""
    objective = block(tree, "objective").get("name") or tree.get("objective")
    named = block(tree, "model", "encoders")
    base, own = shipped_recipes() / "_base" / "towers.yaml", shipped_recipes() / "_base" / f"towers_{objective}.yaml"
    towers, _ = read_tree(own if own.is_file() else base)
    by_kind = block(towers, "model", "encoders") | {"vector": next(iter(named.values()))}
    if any(modality.kind != "vector" for modality in modalities.values()):
        tree = merge(tree, towers)
    encoders = {name: named.get(name, by_kind[modality.kind]) for name, modality in modalities.items()}
    return tree | {"model": block(tree, "model") | {"encoders": encoders}}


def choose_default(task: str, overrides: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Choose the objectives that a task of so many modalities allows. Raises RecipeError as `recipe_of` does."""
    return DEFAULT if len(recipe_of({"name": task}, "clip", 0, overrides).model.encoders) > 2 else DEFAULT_OF_TWO


def find_truth(recipe: Recipe) -> Truth:
    """Compute the exact truth of a recipe's task, at its training batch."""
    data = recipe.data.build()
    assert isinstance(data, Synthetic)
    return data.task.truth(recipe.train.batch)


def check(recipe: Recipe) -> None:
    """Build a recipe once, so that a mistake is one message before any process starts. Raises RecipeError."""
    parts = build_parts(recipe)
    parts.steps(recipe.train.for_)  # the data may hold less than a batch


def run(
    recipes: list[tuple[str, Recipe]],
    folder: Path | None,
    jobs: int,
    progress: Callable[[Sequence[Progress]], None] = lambda _: None,
) -> Iterator[Result]:
    """Train every (objective, recipe), `jobs` at once, and yield results as they come.

    With a folder each run keeps its run folder below it and is resumed, or read when it is finished. `progress` gets
    how far each run is. Raises ValueError where a run fails, RecipeError where its recipe is wrong.
    """
    runs = [Job(recipe, folder and folder / name_run(objective, recipe.seed)) for objective, recipe in recipes]
    with closing(train_all(runs, jobs, progress)) as outcomes:
        for index, outcome in outcomes:
            if isinstance(outcome, Failed):
                raise (RecipeError if outcome.kind == "RecipeError" else ValueError)(outcome.said)
            objective, recipe = recipes[index]
            yield judge(objective, recipe.seed, outcome)


def judge(objective: str, seed: int, trained: Trained, evaluator: str = "synthetic") -> Result:
    """Read the result of a run from the facts of one of its evaluators."""
    names = ("accuracy", "chance", "bayes", "loss", "loss_se", "floor", "no_information_loss", "recovered")
    found: dict[str, Any] = {name: trained.facts.get(f"eval/{evaluator}/{name}") for name in names}
    judged = verdict(
        found["loss"], found["loss_se"], found["floor"], found["no_information_loss"], trained.total_weight
    )
    return Result(objective, seed, **found, verdict=judged, seconds=trained.seconds)
