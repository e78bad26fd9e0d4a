"""Checkpoints that are whole or do not count.

A checkpoint is written under a temporary name, given a manifest with the digest of every file (written last), synced,
and renamed. Only a folder whose manifest agrees with its files is ever read. Tensors are safetensors, the rest is
JSON: nothing is unpickled.

    checkpoints/step-500/model.safetensors      model.* and objective.*
                         optimizer.safetensors  exp_avg, exp_avg_sq and step of every parameter, by its name
                         state.json             step, best, recipe digest
                         manifest.json          {file: {bytes, blake2b}}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MANIFEST = "manifest.json"


@dataclass
class Best:
    """The best evaluation so far."""

    metric: str
    value: float
    step: int


@dataclass
class State:
    """What a run needs besides weights and optimizer."""

    step: int
    best: Best | None = None


class DamagedCheckpoint(ValueError):
    """A checkpoint whose files are not what its manifest says."""


def save(folder: Path, model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> Path:
    """Write `folder`/step-N atomically; returns it."""
    final = folder / f"step-{state.step}"
    draft = folder / f".draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    both = parts(model, objective)
    _write_tensors(draft / "model.safetensors", both.state_dict())
    _write_tensors(draft / "optimizer.safetensors", optimizer_tensors(both, optimizer))
    (draft / "state.json").write_text(json.dumps(asdict(state)))
    manifest = {p.name: _facts(p) for p in sorted(draft.iterdir())}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in (*draft.iterdir(), draft):
        _sync(path)
    if final.exists():  # a damaged one of the same step, or the same step again after a resume
        shutil.rmtree(final)
    os.replace(draft, final)
    _sync(folder)
    return final


def load(path: Path, model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> State:
    """Restore a verified checkpoint. Raises DamagedCheckpoint, or ValueError when it belongs to another model."""
    verify(path)
    both = parts(model, objective)
    load_weights(both, path)
    if optimizer is not None:
        _restore_optimizer(both, optimizer, load_file(path / "optimizer.safetensors"))
    return read_state(path)


def load_weights(both: nn.Module, path: Path, leave: str = "") -> None:
    """Weights of a checkpoint, less those whose name begins with `leave`. Raises ValueError where they do not fit."""
    saved = load_file(path / "model.safetensors")
    saved = {name: x for name, x in saved.items() if not (leave and name.startswith(leave))}
    own = both.state_dict()
    wrong = sorted(saved.keys() ^ own.keys()) + [n for n in saved.keys() & own.keys() if saved[n].shape != own[n].shape]
    if wrong:
        raise ValueError(
            f"{path} belongs to another model: {len(wrong)} tensors differ, such as {', '.join(wrong[:3])}"
        )
    both.load_state_dict(saved)


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


def prune(folder: Path, keep: int, best: Best | None) -> None:
    """Remove all but the `keep` newest checkpoints and the best one."""
    for path in saved(folder)[:-keep]:
        if best is None or path.name != f"step-{best.step}":
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
        optimizer.state[parameters[owner]][key] = value.to(parameters[owner].device)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    path.chmod(0o644 & ~_umask())  # safetensors writes mode 0600, which locks colleagues out


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()[:32]}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
