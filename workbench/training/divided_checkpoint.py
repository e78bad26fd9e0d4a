"""Checkpoints of divided weights: every process writes its shards as safetensors, and none has to hold the whole.

    checkpoints/step-500/model/shard-00001-*.safetensors      one file a process: its rows of every tensor, their place
                         optimizer/shard-00001-*.safetensors
                         state.json manifest.json             as in any checkpoint

This is torch.distributed.checkpoint in its safetensors form, so nothing is unpickled. The trap: all processes have to
take part in writing. Reading takes any number of them, also one without a process group, and gives whole tensors.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write this process's shard of every tensor into an existing folder. Raises OSError on all processes alike."""
    # imported where weights are divided: it takes a second, which runs of whole weights do not pay
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        dcp.save(dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as failed:
        # torch collects the failures of all ranks; a full disk is what people can do something about
        causes = [cause for cause, _ in failed.failures.values()]
        raise next((cause for cause in causes if isinstance(cause, OSError)), causes[0]) from None


def read(folder: Path) -> dict[str, Tensor]:
    """Read whole tensors, by name, onto the CPU."""
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    known: dict[str, Any] = reader.read_metadata().state_dict_metadata
    # dcp.load fills tensors that are there already, so they are made from the metadata first
    tensors: dict[str, Any] = {n: torch.empty(m.size, dtype=m.properties.dtype) for n, m in known.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it warns that it does what `no_dist` asks
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors
