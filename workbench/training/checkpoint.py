"""Checkpoints that are whole or do not count.

A checkpoint is written under a temporary name, given a manifest with the digest of every file, synced to the disk, and
only then renamed. Tensors are safetensors and the rest is JSON: nothing is unpickled. A `snapshot` that is a copy can
be written by another thread while training goes on.

The files, and whether they are whole: `workbench.training.checkpoint_files`.
Divided weights are in folders model/ and optimizer/ in the place of the files: `workbench.training.divided_checkpoint`.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workbench.distributed.dtensor import is_dtensor
from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import local_part, place_like
from workbench.training import divided_checkpoint
from workbench.training.checkpoint_files import State, begin, explain, finish, read_state
from workbench.training.optim import named_state, restore_state


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint: on the CPU, or this process's shards of it."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: State

    @property
    def size(self) -> int:
        """bytes that this process writes, less a few thousand of names and digests"""
        return sum(local_part(x).nbytes for x in (*self.weights.values(), *self.optimizer.values()))


def save(folder: Path, model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> Path:
    """Write the checkpoint `folder`/step-N of everything as it is now; returns its path. Raises OSError."""
    return write(folder, snapshot(model, objective, optimizer, state))


def snapshot(
    model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer, state: State, *, copy: bool = False
) -> Snapshot:
    """Collect everything to be saved; as a `copy`, so that training may go on before it is written."""
    both = under_names(model, objective)

    def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: x.detach() if is_dtensor(x) else x.detach().to("cpu", copy=copy).contiguous()
            for name, x in tensors.items()
        }

    return Snapshot(on_cpu(both.state_dict()), on_cpu(named_state(optimizer, both)), state)


def write(folder: Path, snapshot: Snapshot, parallel: Parallel | None = None) -> Path:
    """Write `folder`/step-N atomically; returns its path. With `parallel`, every process calls it with its shards.

    Raises OSError, on a full disk with what is needed and what is free; the earlier checkpoints stay as they are.
    """
    final, draft = folder / f"step-{snapshot.state.step}", folder / f".draft-step-{snapshot.state.step}"
    try:
        if parallel is None:
            begin(draft)
            _write_tensors(draft / "model.safetensors", snapshot.weights)
            _write_tensors(draft / "optimizer.safetensors", snapshot.optimizer)
            finish(draft, final, snapshot.state)
        else:
            _write_shards(draft, final, snapshot, parallel)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise OSError(explain(error, final, snapshot.size)) from None
    return final


def _write_shards(draft: Path, final: Path, snapshot: Snapshot, parallel: Parallel) -> None:
    """Write one checkpoint together: the first process makes the folders, and names them when all shards are there."""
    if parallel.rank == 0:
        begin(draft, "model", "optimizer")
    parallel.barrier("a checkpoint")
    divided_checkpoint.write(draft / "model", snapshot.weights)
    divided_checkpoint.write(draft / "optimizer", snapshot.optimizer)  # returns when every process has written
    if parallel.rank == 0:
        finish(draft, final, snapshot.state)
    parallel.barrier("a checkpoint")


def read(path: Path, what: Literal["model", "optimizer"]) -> dict[str, Tensor]:
    """Read whole tensors of a checkpoint, by name, however it was written."""
    return divided_checkpoint.read(path / what) if (path / what).is_dir() else load_file(path / f"{what}.safetensors")


def load(path: Path, model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> State:
    """Restore a checkpoint that was verified. Raises ValueError when it belongs to another model."""
    both = under_names(model, objective)
    load_weights(both, path)
    if optimizer is not None:
        restore_state(optimizer, both, read(path, "optimizer"))
    return read_state(path)


def load_weights(both: nn.Module, path: Path, leave: str = "") -> None:
    """Load all weights of a checkpoint, less those whose name begins with `leave`. Raises ValueError where one is
    missing, left over, or of another shape."""
    saved = read(path, "model")
    saved = {name: x for name, x in saved.items() if not (leave and name.startswith(leave))}
    mine = both.state_dict()
    wrong = sorted(saved.keys() ^ mine.keys())
    wrong += [n for n in saved.keys() & mine.keys() if saved[n].shape != mine[n].shape]
    if wrong:
        raise ValueError(
            f"{path} belongs to another model: {len(wrong)} tensors differ, such as {', '.join(wrong[:3])}"
        )
    both.load_state_dict({name: place_like(x, mine[name]) for name, x in saved.items()})


def under_names(model: nn.Module, objective: nn.Module) -> nn.ModuleDict:
    """Put model and objective under the names that their tensors have in a checkpoint."""
    return nn.ModuleDict({"model": model, "objective": objective})


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
