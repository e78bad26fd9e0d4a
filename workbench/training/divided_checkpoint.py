"""Checkpoints of divided weights: every process writes its share, in safetensors, and none holds all of it to save.

    checkpoints/step-500/model/shard-00001-*.safetensors      one a process: its rows of every tensor, and where they go
                         optimizer/shard-00001-*.safetensors
                         state.json manifest.json             as of any checkpoint

torch.distributed.checkpoint in its safetensors form, so nothing is unpickled. The trap: all processes have to take part
in writing; reading takes any number of them, also one without a process group, and gives whole tensors.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """This process's share of every tensor, into a folder that is there. Raises OSError on all processes."""
    try:
        dcp.save(dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as failed:
        causes = [cause for cause, _ in failed.failures.values()]
        raise next((cause for cause in causes if isinstance(cause, OSError)), causes[0]) from None


def read(folder: Path) -> dict[str, Tensor]:
    """Whole tensors, on the CPU."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    known: dict[str, Any] = reader.read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {n: torch.empty(m.size, dtype=m.properties.dtype) for n, m in known.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it was asked to be
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors
