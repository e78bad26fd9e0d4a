"""Weights divided over processes (FSDP2): each holds a share of every weight, its gradient and its optimizer state.

A block's weights are gathered right before it runs and let go of after it. The trap: a forward of divided weights waits
for all processes, but one alone evaluates and draws. So all gather the weights before, and divide them again to train.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


def divide(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide every weight over the mesh: (shard,), or (replicate, shard) for copies of a divided model.

    By layers where an encoder names those that are `repeated()`: what is gathered at once is then one of them.
    """
    # a warning of torch: our encoders return views, and nothing writes into them
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    modules: Any = model
    for encoder in modules.encoders.values():
        for block in getattr(encoder, "repeated", list)():
            fully_shard(block, mesh=mesh)
    parts = [*modules.encoders.values(), *modules.heads.values(), *([modules.fusion] if modules.fusion else [])]
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gather(model: nn.Module) -> None:
    """Give every process all weights, until `let_go`. All processes have to call it; without FSDP it does nothing."""
    for module in _divided(model):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def let_go(model: nn.Module) -> None:
    """Back to a share of the weights a process, as training wants it."""
    for module in _divided(model):
        module.set_reshard_after_forward(True, recurse=False)
        module.reshard()


def is_divided(model: nn.Module) -> bool:
    return any(True for _ in _divided(model))


def _divided(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def whole(x: Tensor) -> Tensor:
    """All of a tensor of which each process has a share; every process has to ask."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def own(x: Tensor) -> Tensor:
    """This process's share."""
    return x.to_local() if isinstance(x, DTensor) else x


def clip_gradients(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """The norm of all gradients before they are scaled to at most `limit`; divided ones count whole."""
    with_gradient = [p for p in parameters if p.grad is not None]
    kinds = [[p for p in with_gradient if isinstance(p, DTensor) == divided] for divided in (True, False)]
    norms = [whole(nn.utils.get_total_norm([p.grad for p in same if p.grad is not None])) for same in kinds if same]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for same in kinds:
        if same and limit is not None:
            nn.utils.clip_grads_with_norm_(same, limit, norm)
    return norm
