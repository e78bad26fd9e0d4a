"""Thins finished runs: the checkpoints that nobody asks for any more, and the optimizer's state in those that stay.

The trap: a run that is not finished needs all of it, and one that is being trained again saves while this removes; so
only runs that are marked as done are touched, each under its lock.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import RunError, writing
from workbench.runs.folder import Run, RunHeld
from workbench.training import checkpoint_files


@dataclass(frozen=True)
class Thinned:
    """What became of a run."""

    run: Path
    freed: int
    """bytes"""
    left: int
    """bytes of checkpoints that stay"""
    why_not: str | None = None
    """why it was left alone"""


def find_folders(places: Sequence[Path]) -> list[Path]:
    """Find the run folders at and below these places. Raises RunError for a place without any."""
    found: list[Path] = []
    for place in places:
        runs = [file.parent for file in sorted(place.rglob("recipe.yaml")) if (file.parent / "checkpoints").is_dir()]
        if not runs:
            raise RunError(f"{place}: no run here or below")
        found += runs
    return list(dict.fromkeys(found))


def thin(path: Path, keep: Collection[str], *, weights: bool = False, dry: bool = False) -> Thinned:
    """Remove the checkpoints of a finished run but its `last` or `best` one, as `keep` says. Raises OSError.

    Args:
        weights: remove the optimizer's state from those that stay, which are then evaluated, not trained on.
        dry: remove nothing, and say what would be freed.
    """
    run = Run(path)
    there = checkpoint_files.saved(run.checkpoints)
    size = sum(map(_size, there))
    if not run.done.exists():
        return Thinned(path, 0, size, "not finished")
    with run:
        try:
            run.hold()
        except RunHeld:
            return Thinned(path, 0, size, "being trained by another process")
        last, complaints = checkpoint_files.newest(run.checkpoints)
        if last is None or complaints:
            return Thinned(path, 0, size, "its newest checkpoint is damaged")
        best = checkpoint_files.read_best(run.checkpoints)
        kept = {checkpoint_files.step_of(last)} if "last" in keep or best is None else set[int]()
        if "best" in keep and best:
            kept.add(best.step)
        gone = [step for step in there if checkpoint_files.step_of(step) not in kept]
        if len(gone) == len(there):  # its best one is not there
            return Thinned(path, 0, size, "nothing of it would be left")
        thinner = [step for step in there if step not in gone and weights and checkpoint_files.has_optimizer(step)]
        freed = sum(map(_size, gone))
        freed += sum(_size(step, "optimizer.safetensors") + _size(step / "optimizer") for step in thinner)
        if not dry:
            with writing(run.checkpoints):
                for step in gone:
                    shutil.rmtree(step)
                for step in thinner:
                    checkpoint_files.drop_optimizer(step)
    return Thinned(path, freed, size - freed)


def _size(folder: Path, pattern: str = "**/*") -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file())
