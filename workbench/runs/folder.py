"""The run folder: who holds it, what it trained on which machine, and whether it may be resumed.

recipe.yaml environment.json data.json code.json code/ metrics.jsonl skipped.jsonl checkpoints/ tensorboard/ DONE

The trap: nothing may be touched here without the lock, not even by a command that wants to begin anew: another process
may be training in the folder, and it saves by path.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from weakref import WeakSet

import yaml

from workbench.errors import RecipeError, RunError, writing
from workbench.loading.draws import build_data
from workbench.recipe.schema import Recipe, load_recipe
from workbench.runs.fingerprint import fingerprint
from workbench.runs.resume_rules import MAY_CHANGE, MAY_MOVE, find_forbidden, flatten, is_in, say_of_weights
from workbench.training import checkpoint_files
from workbench.types import Data

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""errors that mean that another process has the lock; any other one, that the file system has no locks"""


_locks: WeakSet[TextIOWrapper] = WeakSet()
# data workers outlive a killed parent by seconds; with its open lock they would hold the folder as long
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _locks])


class RunHeld(RunError):
    """Another process is training in the folder."""


class Run:
    """A run folder. After `open` this process holds it: a second process that wants it is told so.

    As a context it is released on every way out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.skipped = path / "skipped.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.done = path / "DONE"
        self.data = path / "data.json"
        self.code = path / "code.json"
        self.before: Recipe | None = None
        """the recipe that a resumed run had until now"""
        self._lock: TextIOWrapper | None = None

    @property
    def exists(self) -> bool:
        return (self.path / "recipe.yaml").exists()

    def open(self, recipe: Recipe, *, fresh: bool = False, say: Callable[[str], None] = lambda _: None) -> None:
        """Hold the folder for this recipe: create it, check that it belongs to the recipe or, `fresh`, set it aside.

        Raises RunError when another process holds it, another recipe began it, or nothing can be written there.
        """
        self._hold(say)
        if fresh and self.set_aside(say):
            self._hold(say)  # the lock went with the old folder, and is released only now
        if self.exists and checkpoint_files.saved(self.checkpoints):  # before the first one there is nothing to resume
            self._go_on_from(recipe)
        with writing(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)
        _write(self.path / "recipe.yaml", recipe.as_yaml())
        _write(self.path / "environment.json", json.dumps(environment(), indent=1))

    def hold(self) -> None:
        """Hold a folder that is there, for what is no training. Raises RunError, or RunHeld."""
        self._hold(lambda _: None)

    def release(self) -> None:
        """Let others have the folder."""
        if self._lock:
            self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _hold(self, say: Callable[[str], None]) -> None:
        """Make the folder and take its lock, which the system releases when the process dies. Raises RunError."""
        name = self.path / ".lock"
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = name.open("w")
            except OSError as error:
                raise RunError(
                    f"{self.path}: cannot write there: {error.strerror}; choose another folder with --run"
                ) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in HELD:
                    lock.close()
                    raise RunHeld(
                        f"{self.path} is being trained by another process; wait for it or choose another --run"
                    ) from None
                say(
                    f"{self.path}: this file system has no locks ({error.strerror}): nothing keeps a second process out"
                )
            # between the two lines, another process may have set the folder aside, with this lock in it
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), name.stat()):
                    break
            lock.close()
        self.release()
        self._lock = lock
        _locks.add(lock)

    def set_aside(self, say: Callable[[str], None]) -> bool:
        """Rename the folder, unless it is empty, so that a fresh run can take its name; returns whether it did."""
        if not any(path.name != ".lock" for path in self.path.iterdir()):
            return False
        aside = free = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        number = 1
        while free.exists():  # set aside twice within a second
            number += 1
            free = aside.with_name(f"{aside.name}-{number}")
        with writing(self.path):
            self.path.rename(free)
        say(f"the earlier run is now in {free}")
        return True

    def _go_on_from(self, recipe: Recipe) -> None:
        """Remember the recipe until now. Raises RunError when what it says may not be changed by a resume."""
        file = self.path / "recipe.yaml"
        try:
            # read as a recipe, so that keys of later versions have their defaults and forbid nothing
            self.before = load_recipe(file)
            old = flatten(self.before.as_dict())
        except RecipeError:  # it names what there is no more: say what differs as it is written
            old = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
        new = flatten(recipe.as_dict())
        differs = find_forbidden(old, new)
        if not differs or (all(is_in(key, MAY_MOVE) for key in differs) and self.has_data_of(recipe)):
            return
        steps = [checkpoint_files.step_of(path) for path in checkpoint_files.saved(self.checkpoints)]
        if any(steps):
            changes = (f"  {key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}\n" for key in differs)
            raise RunError(
                f"{self.path} was started with another recipe:\n{''.join(changes)}"
                f"A resume may change only {', '.join(MAY_CHANGE)}, and {', '.join(MAY_MOVE)} where the training data "
                f"are the same: use another --run, or --fresh to begin again.{say_of_weights(differs)}"
            )
        # weights before the first step, kept as the best: drawn from the other recipe, and drawn again by that
        shutil.rmtree(self.checkpoints)
        self.before = None

    def has_data_of(self, recipe: Recipe) -> bool:
        """Whether the recipe's training data are those that the run began with, wherever they lie now."""
        recorded = self._recorded() if self.data.exists() else None
        return recorded is not None and recorded == fingerprint(build_data(recipe))

    def _recorded(self) -> str | None:
        return json.loads(self.data.read_text())["blake2b"]

    def record_data(self, data: Data, say: Callable[[str], None]) -> None:
        """Keep the fingerprint of the training data, or say when it is another one than the run began with."""
        found = fingerprint(data)
        if not self.data.exists():
            # lengths that were found in the data, so that the run can be loaded where the data are not
            dims = {name: modality.shape[-1] for name, modality in data.modalities.items() if modality.measured}
            _write(self.data, json.dumps({"blake2b": found} | ({"dims": dims} if dims else {})))
        elif found and self._recorded() != found:
            say(f"the training data are not those that the run began with: {len(data)} samples now, or other ones")

    def forget_beginning(self) -> None:
        """Forget which data and code the run began with, when it begins only now."""
        for file in (self.data, self.code):
            file.unlink(missing_ok=True)

    def finish(self, step: int, peak_bytes: int) -> None:
        """Mark the run as done, with the most memory of the process that finished it."""
        _write(self.done, json.dumps({"step": step, "peak_bytes": peak_bytes}) + "\n")


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read the resolved recipe of a run. Raises RunError when `path` is not a run folder."""
    file = path / "recipe.yaml"
    if path.is_file():
        raise RunError(
            f"{path} is a file, not a run folder. To evaluate weights, make a run of no step of them: "
            f"wb pretrain RECIPE --set model.init={path} --set train.for='0 steps'"
        )
    if (path / "export.json").is_file():
        raise RunError(
            f"{path} is an export, not a run folder: workbench.load and wb eval --data DATA read it, for the rest name "
            "the run"
        )
    if not file.is_file():
        raise RunError(f"{path} is not a run folder: it has no recipe.yaml")
    recipe, data = load_recipe(file, overrides), path / "data.json"
    fields = getattr(recipe.data.settings, "fields", None) or {}
    unknown = [name for name, field in fields.items() if getattr(field, "dim", 0) is None]
    if not unknown or not data.is_file():
        return recipe
    dims = json.loads(data.read_text(encoding="utf-8")).get("dims", {})
    known = tuple(f"data.fields.{name}.dim={dims[name]}" for name in unknown if name in dims)
    return load_recipe(file, (*known, *overrides))


def find_checkpoint(run: Path, which: str) -> Path:
    """Find and verify the `last` whole checkpoint of a run, its `best`, or that of a step.

    Raises RunError naming those there are, or DamagedCheckpoint. Warns when the last is not the newest, which is
    damaged.
    """
    paths = checkpoint_files.saved(run / "checkpoints")
    steps = ", ".join(str(checkpoint_files.step_of(path)) for path in paths)
    if not paths:
        raise RunError(f"{run} has no checkpoint yet")
    if which == "last":
        last, complaints = checkpoint_files.newest(run / "checkpoints")
        if last is None:
            raise RunError(f"{run} has no whole checkpoint:" + "".join(f"\n  {line}" for line in complaints))
        for line in complaints:
            warnings.warn(f"damaged checkpoint left alone, {last.name} is used: {line}", stacklevel=2)
        return last
    path = run / "checkpoints" / f"step-{which}"
    if which == "best":
        best = checkpoint_files.read_best(run / "checkpoints")
        if best is None:
            raise RunError(
                f"{run} has no best checkpoint: its recipe names no eval.best, or nothing was evaluated yet; "
                f"use last or a step ({steps})"
            )
        path = run / "checkpoints" / f"step-{best.step}"
        if not path.is_dir():
            raise RunError(
                f"{run}: the best evaluation by {best.metric} ({best.value:.4g}) was at step {best.step}, which has no "
                f"checkpoint any more; use last or a step ({steps})"
            )
    if not path.is_dir():
        raise RunError(f"{run} has no checkpoint '{which}' (there are: last, best where eval.best is set, {steps})")
    checkpoint_files.verify(path)
    return path


def environment() -> dict[str, Any]:
    """Collect versions and machine: what somebody needs to repeat the run."""
    import torch

    packages = ("multimodal-workbench", "torch", "torchvision", "triton", "open_clip_torch", "timm", "numpy")
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "packages": {name: package_version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


@cache  # reading a package's metadata takes milliseconds, and several runs in a process ask for all of them
def package_version(name: str) -> str | None:
    """None where the package is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a file such that a crash leaves the old or the new content."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
