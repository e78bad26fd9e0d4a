"""Arms times seeds: the runs of a sweep, and where each lies.

FOLDER/sweep.yaml          the sweep as it was read last
       ARM-seedN/          an ordinary run folder
       logs/ARM-seedN.txt  what that run said
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.recipe.schema import Recipe

FILE = "sweep.yaml"
"""the copy of the sweep's file in its folder"""
HEADER = "# Written by `wb sweep` at every start; a sweep of your own is another file.\n"
RUN = re.compile(r"(?P<arm>.+)-seed(?P<seed>\d+)")
"""the name of a run's folder"""


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared: a recipe, and in what it differs from the base."""

    name: str
    base: str
    """the file of the recipe, or the name of a shipped one"""
    overrides: Mapping[str, object]
    """{dotted key: value}: the arm's own, then those of its place in the grid; `base` where it has its own recipe"""
    recipe: Recipe
    """with the seed and the name of the base"""


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep."""

    arm: Arm
    seed: int
    folder: Path
    recipe: Recipe
    """with this run's seed, and `SWEEP/ARM-seedN` for a name"""

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Sweep:
    """Arms times seeds. Runs lie in `FOLDER/ARM-seedN`, each an ordinary run folder."""

    name: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    text: str
    """the file, written so that it says the same anywhere"""
    folder: Path
    """where the runs lie unless another place is asked for: runs/NAME, or the folder that the sweep was read from"""

    def runs(self, folder: Path | None = None, seeds: Sequence[int] | None = None) -> list[SweepRun]:
        """List all runs, or those of other seeds. The place in this list is a run's number.

        All arms of a seed stand together: a sweep that is stopped has whole pairs, and a seed that is added later
        gets numbers behind all that there are.
        """
        below = folder or self.folder
        return [
            SweepRun(arm, seed, below / name, replace_own(arm.recipe, seed, f"{self.name}/{name}"))
            for seed in (self.seeds if seeds is None else seeds)
            for arm in self.arms
            for name in [name_run(arm.name, seed)]
        ]


def is_copy(file: Path) -> bool:
    """Tell the copy in a sweep's folder from a file that a person has written."""
    return file.read_text(encoding="utf-8").startswith(HEADER)


def name_run(arm: str, seed: int) -> str:
    """Name the folder of a run; an objective of one's own, `path.to.module:Class`, is no such name."""
    return f"{re.sub(r'[^A-Za-z0-9_.+=,-]+', '-', arm)}-seed{seed}"


def replace_own(recipe: Recipe, seed: int, name: str) -> Recipe:
    """Make the recipe of one run of an arm."""
    return recipe.model_copy(update={"seed": seed, "name": name})


def find_runs(folder: Path) -> list[tuple[str, int, Path]]:
    """List (arm, seed, run folder) of what a sweep, a line-up or a row of the matrix has left in its folder."""
    found = ((RUN.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    runs = [(m["arm"], int(m["seed"]), path) for m, path in found if m and (path / "recipe.yaml").is_file()]
    return sorted(runs, key=lambda run: run[:2])
