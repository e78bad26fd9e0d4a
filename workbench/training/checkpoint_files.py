"""Checkpoints as files: which there are, whether they are whole, their step and state. Nothing here needs torch.

    checkpoints/step-500/model.safetensors      model.* and objective.*
                         optimizer.safetensors  exp_avg, exp_avg_sq and step of every parameter, by its name
                         manifest.json          {file: {bytes, blake2b}}
                         state.json             step, best, and the digest of these

The state carries its own digest and is no part of the manifest, because it is written anew: the evaluation of a step
comes after its save, and may find that this step is the best. One rename then replaces the state; a file and a manifest
that have to agree could not be replaced at one moment.

The traps: drafts of a killed process are as large as a checkpoint, so the next one to be written sweeps them away; and
digests of gigabytes take seconds, so `newest` and `verify` are asked once, and `checkpoint.load` trusts them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.training.metrics import Best

MANIFEST, STATE = "manifest.json", "state.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""errors of a disk, a quota or a limit that leaves no room"""


@dataclass
class State:
    """The progress of a run, which it needs besides weights and optimizer."""

    step: int = 0
    best: Best | None = None


class DamagedCheckpoint(ValueError):
    """The files of a checkpoint are not what was written."""


def step_of(path: Path) -> int:
    """The optimizer step whose checkpoint a folder is."""
    return int(path.name.removeprefix("step-"))


def saved(folder: Path) -> list[Path]:
    """List checkpoint folders, oldest first, whole or not."""
    return sorted((p for p in folder.glob("step-*") if p.name[5:].isdigit()), key=step_of)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest whole checkpoint; returns it, and a line for each newer one that is damaged."""
    complaints = []
    for path in reversed(saved(folder)):
        try:
            verify(path)
            return path, complaints
        except DamagedCheckpoint as damage:
            complaints.append(str(damage))
    return None, complaints


def verify(path: Path) -> None:
    """Read every file of a checkpoint and compare its digest. Raises DamagedCheckpoint saying which file is wrong."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        raise DamagedCheckpoint(f"{path}: no readable {MANIFEST}: it was not finished") from None
    for name, facts in manifest.items():
        file = path / name
        # sizes first: a file that was cut off is told without reading gigabytes
        size = file.stat().st_size if file.exists() else 0
        if size != facts["bytes"]:
            raise DamagedCheckpoint(f"{path}: {name} has {size} bytes instead of {facts['bytes']}")
        if _facts(file) != facts:
            raise DamagedCheckpoint(f"{path}: {name} is not what was written (digest differs)")
    read_state(path)


def read_state(path: Path) -> State:
    """Read the state of a checkpoint. Raises DamagedCheckpoint when it is not what was written."""
    try:
        raw = json.loads((path / STATE).read_text())
        state = State(raw["step"], Best(**raw["best"]) if raw["best"] else None)
        digest = raw.get("blake2b")  # before version 0.2 it had none, and stood in the manifest
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise DamagedCheckpoint(f"{path}: no readable {STATE}") from None
    if digest not in (None, _digest_of(state)):
        raise DamagedCheckpoint(f"{path}: {STATE} is not what was written (digest differs)")
    return state


def read_best(folder: Path) -> Best | None:
    """Read from the newest checkpoint, whole or not, which step was the best until then."""
    for path in reversed(saved(folder)):
        try:
            return read_state(path).best
        except DamagedCheckpoint:
            continue
    return None


def prune(folder: Path, keep: int, state: State, keep_every: int | None = None, damaged: Collection[int] = ()) -> None:
    """Remove old checkpoints: all but the `keep` newest up to the state's step, its best, and those of `keep_every`.

    Newer ones than the state's step are damaged, as the run went on from an older one: they neither count among those
    to keep nor are touched, until the run has passed them. `damaged` names their steps, which then are removed.
    """
    passed = [path for path in saved(folder) if step_of(path) <= state.step]
    whole = [path for path in passed if step_of(path) not in damaged]
    kept = {step_of(path) for path in whole[-keep:]} | ({state.best.step} if state.best else set())
    for path in passed:
        step = step_of(path)
        if step in damaged or not (step in kept or (keep_every and step % keep_every == 0)):
            shutil.rmtree(path)


def has_optimizer(path: Path) -> bool:
    """Tell whether a training can go on from a checkpoint."""
    return (path / "optimizer.safetensors").is_file() or (path / "optimizer").is_dir()


def drop_optimizer(path: Path) -> None:
    """Remove the state of the optimizer from a checkpoint, whose weights stay whole at every moment. Raises OSError."""
    manifest = json.loads((path / MANIFEST).read_text())
    kept = {name: facts for name, facts in manifest.items() if not name.startswith("optimizer")}
    _replace(path / MANIFEST, json.dumps(kept, indent=1))
    (path / "optimizer.safetensors").unlink(missing_ok=True)
    shutil.rmtree(path / "optimizer", ignore_errors=True)


def amend(path: Path, state: State) -> None:
    """Replace the state of a checkpoint that is already there, at one moment. Raises OSError."""
    manifest = json.loads((path / MANIFEST).read_text())
    try:
        if manifest.pop(STATE, None):  # listed before version 0.2, when a state had no digest of its own
            _replace(path / MANIFEST, json.dumps(manifest, indent=1))
        _replace(path / STATE, _signed(state))
    except OSError as error:
        raise OSError(explain(error, path, size=4096)) from None


def begin(draft: Path, *folders: str) -> None:
    """Make an empty draft, and remove those that killed processes have left."""
    # the run folder is locked, so that no other process can be writing one of these
    for stale in draft.parent.glob(".draft-*"):
        shutil.rmtree(stale, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in folders:
        (draft / name).mkdir()


def finish(draft: Path, final: Path, state: State) -> None:
    """Write manifest and state, bring everything to the disk, and only then give the checkpoint its name.

    The order is what a loss of power needs: contents are synced before the folder that lists them, and both before the
    rename, so that a name on the disk always stands for files that are there.
    """
    files = sorted(p for p in draft.rglob("*") if p.is_file())
    (draft / MANIFEST).write_text(json.dumps({str(p.relative_to(draft)): _facts(p) for p in files}, indent=1))
    (draft / STATE).write_text(_signed(state))
    for path in (*draft.rglob("*"), draft):
        _sync(path)
    if final.exists():  # a damaged one of the same step, or the same step again after a resume
        shutil.rmtree(final)
    os.replace(draft, final)
    _sync(final.parent)


def explain(error: OSError, final: Path, size: int) -> str:
    """Say why a checkpoint of `size` bytes cannot be written, and what is left."""
    room = ""
    if error.errno in FULL:
        free = shutil.disk_usage(final.parent).free
        room = f" (it needs {size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free there)"
    return (
        f"cannot write the checkpoint {final}: {error.strerror or error}{room}. The checkpoints before it are whole: "
        "make it possible to write there, and the same command goes on from the newest"
    )


def _replace(path: Path, text: str) -> None:
    """Give a file another content, such that a crash leaves the old or the new one."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    _sync(draft)
    os.replace(draft, path)
    _sync(path.parent)


def _signed(state: State) -> str:
    return json.dumps(asdict(state) | {"blake2b": _digest_of(state)})


def _digest_of(state: State) -> str:
    return hashlib.blake2b(json.dumps(asdict(state)).encode()).hexdigest()[:32]


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()[:32]}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
