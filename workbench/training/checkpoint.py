"""Checkpoints that are whole or do not count.

A checkpoint is written under a temporary name, given a manifest with the digest of every file (written last), synced,
and renamed. Only a folder whose manifest agrees with its files is ever read. Tensors are safetensors, the rest is
JSON: nothing is unpickled. A `snapshot` with a copy can be written by another thread while training goes on.

The trap: drafts of a killed process are as large as a checkpoint; the next one to be written sweeps them away.

    checkpoints/step-500/model.safetensors      model.* and objective.*
                         optimizer.safetensors  exp_avg, exp_avg_sq and step of every parameter, by its name
                         state.json             step, best, recipe digest
                         manifest.json          {file: {bytes, blake2b}}

Divided weights are in folders model/ and optimizer/ in the place of the files: `workbench.training.divided_checkpoint`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import own, placed
from workbench.training import divided_checkpoint
from workbench.training.metrics import Best

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""errors of a disk, a quota or a limit that leaves no room"""


@dataclass
class State:
    """What a run needs besides weights and optimizer."""

    step: int
    best: Best | None = None


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold: on the CPU, or this process's share of it."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: State

    @property
    def size(self) -> int:
        """bytes on the disk, of this process, less a few thousand of names and digests"""
        return sum(own(x).nbytes for x in (*self.weights.values(), *self.optimizer.values()))


class DamagedCheckpoint(ValueError):
    """A checkpoint whose files are not what its manifest says."""


def save(folder: Path, model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> Path:
    """`write` of a `snapshot`."""
    return write(folder, snapshot(model, objective, optimizer, state))


def snapshot(
    model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer, state: State, *, copy: bool = False
) -> Snapshot:
    """Everything to be saved; with a `copy` of its own, training may go on before it is written."""
    both = parts(model, objective)

    def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: x.detach() if isinstance(x, DTensor) else x.detach().to("cpu", copy=copy).contiguous()
            for name, x in tensors.items()
        }

    return Snapshot(on_cpu(both.state_dict()), on_cpu(optimizer_tensors(both, optimizer)), state)


def write(folder: Path, snapshot: Snapshot, parallel: Parallel | None = None) -> Path:
    """Write `folder`/step-N atomically; returns it. Of divided weights every process of `parallel` writes its share.

    Raises OSError, on a full disk with what is needed and what is free; the earlier checkpoints stay as they are.
    """
    final, draft = folder / f"step-{snapshot.state.step}", folder / f".draft-step-{snapshot.state.step}"
    try:
        if parallel is None:
            _begin(draft)
            _write_tensors(draft / "model.safetensors", snapshot.weights)
            _write_tensors(draft / "optimizer.safetensors", snapshot.optimizer)
            _finish(draft, final, snapshot.state)
        else:
            _write_shares(draft, final, snapshot, parallel)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise OSError(_explain(error, final, snapshot.size)) from None
    return final


def _begin(draft: Path, *folders: str) -> None:
    """An empty draft, and no other."""
    for stale in draft.parent.glob(".draft-*"):
        shutil.rmtree(stale, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in folders:
        (draft / name).mkdir()


def _finish(draft: Path, final: Path, state: State) -> None:
    """The state, the manifest, everything on the disk, and only then its name."""
    (draft / "state.json").write_text(json.dumps(asdict(state)))
    files = sorted(p for p in draft.rglob("*") if p.is_file())
    (draft / MANIFEST).write_text(json.dumps({str(p.relative_to(draft)): _facts(p) for p in files}, indent=1))
    for path in (*draft.rglob("*"), draft):
        _sync(path)
    if final.exists():  # a damaged one of the same step, or the same step again after a resume
        shutil.rmtree(final)
    os.replace(draft, final)
    _sync(final.parent)


def _write_shares(draft: Path, final: Path, snapshot: Snapshot, parallel: Parallel) -> None:
    if parallel.rank == 0:
        _begin(draft, "model", "optimizer")
    parallel.barrier("a checkpoint")
    divided_checkpoint.write(draft / "model", snapshot.weights)
    divided_checkpoint.write(draft / "optimizer", snapshot.optimizer)
    if parallel.rank == 0:
        _finish(draft, final, snapshot.state)
    parallel.barrier("a checkpoint")


def read(path: Path, what: Literal["model", "optimizer"]) -> dict[str, Tensor]:
    """Whole tensors of a checkpoint, by name, however it was written."""
    return divided_checkpoint.read(path / what) if (path / what).is_dir() else load_file(path / f"{what}.safetensors")


def _explain(error: OSError, final: Path, size: int) -> str:
    room = ""
    if error.errno in FULL:
        free = shutil.disk_usage(final.parent).free
        room = f" (it needs {size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free there)"
    return (
        f"cannot write the checkpoint {final}: {error.strerror or error}{room}. The checkpoints before it are whole: "
        "make it possible to write there, and the same command goes on from the newest"
    )


def load(path: Path, model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> State:
    """Restore a verified checkpoint. Raises DamagedCheckpoint, or ValueError when it belongs to another model."""
    verify(path)
    both = parts(model, objective)
    load_weights(both, path)
    if optimizer is not None:
        _restore_optimizer(both, optimizer, read(path, "optimizer"))
    return read_state(path)


def load_weights(both: nn.Module, path: Path, leave: str = "") -> None:
    """Weights of a checkpoint, less those whose name begins with `leave`. Raises ValueError where they do not fit."""
    saved = read(path, "model")
    saved = {name: x for name, x in saved.items() if not (leave and name.startswith(leave))}
    mine = both.state_dict()
    wrong = sorted(saved.keys() ^ mine.keys())
    wrong += [n for n in saved.keys() & mine.keys() if saved[n].shape != mine[n].shape]
    if wrong:
        raise ValueError(
            f"{path} belongs to another model: {len(wrong)} tensors differ, such as {', '.join(wrong[:3])}"
        )
    both.load_state_dict({name: placed(x, mine[name]) for name, x in saved.items()})


def read_state(path: Path) -> State:
    raw = json.loads((path / "state.json").read_text())
    return State(raw["step"], Best(**raw["best"]) if raw["best"] else None)


def parts(model: nn.Module, objective: nn.Module) -> nn.ModuleDict:
    """Model and objective under the names that a checkpoint uses."""
    return nn.ModuleDict({"model": model, "objective": objective})


def saved(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first, whole or not."""
    found = [p for p in folder.glob("step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a line for each newer one that is damaged."""
    complaints = []
    for path in reversed(saved(folder)):
        try:
            verify(path)
            return path, complaints
        except DamagedCheckpoint as damage:
            complaints.append(str(damage))
    return None, complaints


def verify(path: Path) -> None:
    """Raises DamagedCheckpoint saying which file is wrong."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError):
        raise DamagedCheckpoint(f"{path}: no readable {MANIFEST}: it was not finished") from None
    for name, facts in manifest.items():
        file = path / name
        size = file.stat().st_size if file.exists() else 0
        if size != facts["bytes"]:
            raise DamagedCheckpoint(f"{path}: {name} has {size} bytes instead of {facts['bytes']}")
        if _facts(file) != facts:
            raise DamagedCheckpoint(f"{path}: {name} is not what was written (digest differs)")


def prune(folder: Path, keep: int, best: Best | None, keep_every: int | None = None) -> None:
    """Remove all but the `keep` newest checkpoints, the best one, and those of every `keep_every` steps."""
    for path in saved(folder)[:-keep]:
        step = int(path.name[5:])
        if (best is None or step != best.step) and not (keep_every and step % keep_every == 0):
            shutil.rmtree(path)


def optimizer_tensors(both: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer state by parameter name, so that it does not depend on the order of groups."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in both.named_parameters()}
    return {
        f"{names[parameter]}.{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _restore_optimizer(both: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(both.named_parameters())
    optimizer.state.clear()
    for name, value in tensors.items():
        owner, _, key = name.rpartition(".")
        like = parameters[owner]
        # one number, as the count of steps, is whole on every process
        optimizer.state[like][key] = placed(value, like) if value.ndim else value.to(like.device)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    path.touch()
    mode = path.stat().st_mode  # safetensors writes mode 0600, which locks colleagues out
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # it wraps the system's error in words
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
    path.chmod(mode)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()[:32]}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
