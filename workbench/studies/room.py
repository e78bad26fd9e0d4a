"""What runs need before they begin: parts that fit, data that are there, memory for so many at once, a disk, hours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.recipe.yaml_file import Tree
from workbench.recipe.yaml_text import parse_yaml, write_yaml
from workbench.studies.machine import count_cores, free_memory, list_gpus
from workbench.studies.sweep_runs import SweepRun

PROCESS, WORKER = 800 * 2**20, 300 * 2**20
"""bytes of a training without its model (725 MiB after all imports, measured on Linux), and of a data worker of it"""
SPARE = 1.2
"""room for what no count of tensors knows: what the allocator keeps, an evaluation"""
SMALL, GIB = 1_000_000, 2**30


def refuse_hopeless(runs: Sequence[SweepRun]) -> None:
    """Raises RecipeError where the parts of an arm do not fit each other, ValueError where its data are not there."""
    if missing := find_missing(runs):
        raise ValueError(missing)


def find_missing(runs: Sequence[SweepRun]) -> str | None:
    """Say which data an arm lacks; None where all are there. Raises RecipeError where parts do not fit each other.

    What else the code of an arm raises is left to its run, which fails alone.
    """
    from workbench.runs.cost import assemble, missing_data

    wrong, lacking = dict[str, list[str]](), list[str]()
    for arm in {run.arm.name: run.arm for run in runs}.values():
        try:
            missing = missing_data(arm.recipe, assemble(arm.recipe).data)
        except RecipeError as error:
            wrong.setdefault(str(error), []).append(arm.name)
            continue
        except Exception:
            continue
        if missing:
            lacking.append(f"arm {arm.name}: {missing}")
    if wrong:
        raise RecipeError("\n".join(f"arm {', '.join(arms)}: {said}" for said, arms in wrong.items()))
    return lacking[0] if lacking else None


def choose_at_once(runs: Sequence[SweepRun], wanted: int | None, say: Callable[[str], None]) -> int:
    """Choose how many runs are trained at once: what is wanted, or one for each GPU or core, as memory allows."""
    most = min(wanted or len(list_gpus()) or count_cores(), len(runs))
    free = free_memory()
    if most == 1 or free is None or list_gpus():  # a GPU's memory is its own
        return most
    needs = sorted((_need(run.recipe) for run in runs), reverse=True)
    fit = max((number for number in range(1, most + 1) if sum(needs[:number]) <= free), default=1)
    if fit < most:
        say(
            f"{most} runs at once would need {sum(needs[:most]) / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free: "
            f"{fit} at once"
        )
    return fit


def _need(recipe: Recipe) -> float:
    """Estimate the bytes that a training takes on the CPU."""
    return _memory(_shape(recipe)) + PROCESS + WORKER * recipe.parallel.workers


@dataclass(frozen=True)
class Size:
    """What a training takes."""

    memory: float
    """bytes of the model, what it learns by, and a step"""
    checkpoint: float
    """bytes of one checkpoint"""
    flops: float
    """of a sample, forward and backward"""
    samples: float | None
    """None where the length of the data is not known"""


def _shape(recipe: Recipe) -> str:
    """Write out what the size of a training follows from, so that arms of one size are counted once."""
    tree = recipe.as_dict()
    train = tree["train"]
    assert isinstance(train, dict)
    size = {key: train[key] for key in ("for", "batch", "microbatch", "precision")}
    return write_yaml({"name": "any"} | {key: tree[key] for key in ("data", "model", "objective")} | {"train": size})


@cache
def _cost(shape: str) -> Size:
    from workbench.runs.cost import cost

    recipe = _read_shape(shape)
    try:
        found = cost(recipe)
    except Exception:  # an objective of one's own may raise anything: its run will tell, and leave the others alone
        numbers = _count_parameters(recipe)
        return Size(16 * numbers, 12 * numbers, 0.0, None)
    trainable = found.total_parameters - found.total_frozen
    return Size(
        found.memory_bytes, 12 * trainable + 4 * found.total_frozen, found.flops_per_sample, found.total_samples
    )


@cache
def _memory(shape: str) -> float:
    """Estimate the bytes of the model, what it learns by, and a step."""
    # a fake step costs seconds of imports, and so small a model never needs more than this
    return GIB if _count_parameters(_read_shape(shape)) < SMALL else SPARE * _cost(shape).memory


def _read_shape(shape: str) -> Recipe:
    tree = parse_yaml(shape, str).value
    assert isinstance(tree, dict)
    return parse_recipe(tree)


def _count_parameters(recipe: Recipe) -> int:
    """Count the numbers of a model; 0 where its own code fails, as its run will tell."""
    from workbench.runs.cost import assemble

    try:
        return sum(p.numel() for p in assemble(recipe).model.parameters())
    except Exception:
        return 0


@dataclass(frozen=True)
class Plan:
    """What a sweep would take."""

    runs: int
    done: int
    at_once: int
    hours: float | None
    """until the last run ends, on this machine; None where the length of the data is not known"""
    disk: float
    """bytes of checkpoints, when all runs are done"""
    free_disk: int

    def as_dict(self) -> Tree:
        return self.__dict__.copy()


def plan(runs: Sequence[SweepRun], known: Sequence[float | None], jobs: int | None, folder: Path) -> Plan:
    """Plan a sweep without training: `known` are the seconds of runs that are done, None of the others.

    An arm of which a run is done is as fast as that; others by their FLOPs, at the speed of a product of matrices here.
    """
    left = [run for run, seconds in zip(runs, known, strict=True) if seconds is None]
    at_once = choose_at_once(left, jobs, lambda _: None) if left else 1
    seconds_of = {run.arm.name: seconds for run, seconds in zip(runs, known, strict=True) if seconds is not None}
    seconds = [seconds_of.get(run.arm.name) or _estimate(run.recipe, at_once) for run in left]
    hours = None if None in seconds else sum(filter(None, seconds)) / at_once / 3600
    disk = sum(_cost(_shape(run.recipe)).checkpoint * _kept(run.recipe) for run in runs)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return Plan(len(runs), len(runs) - len(left), at_once, hours, disk, shutil.disk_usage(there).free)


def _kept(recipe: Recipe) -> int:
    """Count the checkpoints that a run leaves: the newest, and the best."""
    return recipe.checkpoint.keep + (1 if recipe.eval.best else 0)


def _estimate(recipe: Recipe, at_once: int) -> float | None:
    """Estimate the seconds of a run; None where the length of the data is not known."""
    size = _cost(_shape(recipe))
    return size.samples and size.flops * size.samples / (speed(at_once) * UTILISATION)


UTILISATION = 0.25
"""the part of a CPU's speed at products of matrices that trainings reach: .33 by emoji_ito, .18 by emoji_confu"""


@cache
def speed(at_once: int) -> float:
    """Measure FLOP/s of a product of matrices, on this process's device, with a share of its threads."""
    import torch

    from workbench.distributed.processes import device
    from workbench.studies.machine import share_threads

    before, size = torch.get_num_threads(), 1024
    torch.set_num_threads(share_threads(at_once))
    try:
        x = torch.rand(size, size, device=device())
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            float((x @ x)[0, 0])
            best = min(best, time.perf_counter() - began)
        return 2 * size**3 / best
    finally:
        torch.set_num_threads(before)
