"""The run folder: who owns it, what it trained on which machine, and whether it may be resumed.

recipe.yaml environment.json metrics.jsonl skipped.jsonl checkpoints/ tensorboard/ DONE
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from weakref import WeakSet

import yaml

from workbench.errors import writing
from workbench.recipe.schema import Recipe, load_recipe
from workbench.training import checkpoint

MAY_CHANGE = ("train.for", "log", "eval", "checkpoint", "parallel", "data.max_bad")
"""what a resume may change: none of it alters a step that was already taken, or how the next one is computed"""


_locks: WeakSet[TextIOWrapper] = WeakSet()
# data workers outlive a killed parent by seconds; with its open lock they would hold the folder as long
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _locks])


class RunError(ValueError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


class Run:
    """A run folder that this process holds: a second process that wants it is told so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.skipped = path / "skipped.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.done = path / "DONE"

    @property
    def exists(self) -> bool:
        return (self.path / "recipe.yaml").exists()

    def open(self, recipe: Recipe) -> None:
        """Create the folder, or check that it belongs to this recipe. Raises RunError."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot write there: {error.strerror}; choose another folder with --run"
            ) from None
        _locks.add(self._lock)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process dies
        except OSError:
            raise RunError(
                f"{self.path} is being trained by another process; wait for it or choose another --run"
            ) from None
        if self.exists and checkpoint.saved(self.checkpoints):  # before the first one there is nothing to resume
            self._refuse_other_recipe(recipe)
        _write(self.path / "recipe.yaml", recipe.as_yaml())
        _write(self.path / "environment.json", json.dumps(environment(), indent=1))

    def _refuse_other_recipe(self, recipe: Recipe) -> None:
        old, new = _flatten(yaml.safe_load((self.path / "recipe.yaml").read_text())), _flatten(recipe.as_dict())
        changed = [
            f"  {key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
            and not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE)
        ]
        if changed:
            raise RunError(
                f"{self.path} was started with another recipe:\n" + "\n".join(changed) + "\n"
                f"A resume may change only {', '.join(MAY_CHANGE)}: use another --run, or --fresh to begin again."
            )

    def set_aside(self) -> Path | None:
        """Rename an existing folder so that a fresh run can take its name; returns where it went."""
        if not self.path.exists():
            return None
        aside = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        self.path.rename(aside)
        return aside

    def finish(self, step: int) -> None:
        _write(self.done, json.dumps({"step": step}) + "\n")


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The resolved recipe of a run. Raises RunError when `path` is not a run folder."""
    file = path / "recipe.yaml"
    if not file.is_file():
        raise RunError(f"{path} is not a run folder: it has no recipe.yaml")
    return load_recipe(file, overrides)


def find_checkpoint(run: Path, which: str) -> Path:
    """The `last` whole checkpoint, the `best`, or that of a step. Raises RunError naming those there are, or
    DamagedCheckpoint."""
    folder = run / "checkpoints"
    steps = [p.name.removeprefix("step-") for p in checkpoint.saved(folder)]
    last, complaints = checkpoint.newest(folder)
    if last is None:
        raise RunError(f"{run} has no whole checkpoint yet" + "".join(f"\n  {line}" for line in complaints))
    if which == "last":
        return last
    if which == "best":
        best = checkpoint.read_state(last).best
        if best is None:
            raise RunError(
                f"{run} has no best checkpoint: its recipe names no eval.best; use last or a step ({', '.join(steps)})"
            )
        which = str(best.step)
    path = folder / f"step-{which}"
    if not path.is_dir():
        raise RunError(f"{run} has no checkpoint '{which}' (there are: best, last, {', '.join(steps)})")
    checkpoint.verify(path)
    return path


def environment() -> dict[str, Any]:
    """Versions and machine: what somebody needs to repeat the run."""
    import torch

    packages = ("multimodal-workbench", "torch", "torchvision", "triton", "open_clip_torch", "timm", "numpy")
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "packages": {name: package_version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def package_version(name: str) -> str | None:
    """None where the package is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for key, item in tree.items() for k, v in _flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
