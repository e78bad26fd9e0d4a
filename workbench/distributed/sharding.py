"""Weights divided over processes (FSDP2): each holds a share of every matrix, its gradient and its optimizer state.

A block's matrices are gathered right before it runs and let go of after it; in bf16 where autocast would round them
anyway, so that half as much travels and the same is computed. Vectors (gains, biases) are whole everywhere, in fp32.
The trap: a forward of divided weights waits for all processes, and of bf16 ones sees rounded matrices, but the first
process alone evaluates and draws, in fp32. So it does that with a copy of the model, which `Whole` fills.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import SUPPORTED_NODES, register_dataclass

from workbench.types import Features

ROUNDED = {module.forward for module in (nn.Linear, nn.MultiheadAttention, nn.Conv1d, nn.Conv2d, nn.Conv3d)}
"""what these do with a matrix, autocast does with one rounded to bf16; a subclass or a hook may do something before"""
IN_BF16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
"""matrices travel in bf16, gradients are summed in fp32, and what a block is given stays as it is"""


def divide(model: nn.Module, mesh: DeviceMesh, precision: str = "fp32") -> None:
    """Divide every matrix over the mesh: (shard,), or (replicate, shard) for copies of a divided model.

    By layers where an encoder names those that are `repeated()`: what is gathered at once is then one of them, and with
    `precision` bf16 it is gathered as such, unless it has a matrix that autocast leaves alone.
    """
    if Features not in SUPPORTED_NODES:  # FSDP of torch 2.11 sees no tensor inside of what is no pytree
        register_dataclass(Features)
    # a warning of torch: our encoders return views, and nothing writes into them
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    modules: Any = model
    vectors = {p for p in model.parameters() if p.ndim < 2}
    for encoder in modules.encoders.values():
        for block in getattr(encoder, "repeated", list)():
            policy = IN_BF16 if precision == "bf16" and _rounded_anyway(block) else MixedPrecisionPolicy()
            fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=vectors)
    parts = [*modules.encoders.values(), *modules.heads.values(), *([modules.fusion] if modules.fusion else [])]
    for part in (*parts, model):
        fully_shard(part, mesh=mesh, ignored_params=vectors)


def _rounded_anyway(block: nn.Module) -> bool:
    return all(
        type(module).forward in ROUNDED and not module._forward_pre_hooks
        for module in block.modules()
        if any(p.ndim >= 2 for p in module.parameters(recurse=False))
    )


class Whole:
    """The model to evaluate with: the trained one or, where that is divided, a `copy` on the process that evaluates.

    `gather` gives the copy all weights, in fp32, until `let_go`. For a model that is not divided both do nothing.
    """

    def __init__(self, trained: nn.Module, divided: bool = False, copy: nn.Module | None = None) -> None:
        self.trained, self.divided, self.copy = trained, divided, copy
        self._filled = False
        if copy is not None:
            named = copy.named_parameters(remove_duplicate=False)
            self._nothing = {name: _frozen(torch.empty_like(p, device="meta")) for name, p in named}
            _put(copy, self._nothing)

    @property
    def model(self) -> Any:
        return self.trained if self.copy is None else self.copy

    def gather(self) -> None:
        """All processes have to call it."""
        if not self.divided or self._filled:
            return
        for name, p in self.trained.named_parameters(remove_duplicate=False):
            weights = whole(p.detach())
            if self.copy is not None:
                _put(self.copy, {name: _frozen(weights)})
        if self.copy is not None:
            _put(self.copy, dict(self.trained.named_buffers(remove_duplicate=False)))
        self._filled = True

    def let_go(self) -> None:
        """Training wants the memory."""
        if self._filled and self.copy is not None:
            _put(self.copy, self._nothing)
        self._filled = False


def _frozen(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x, requires_grad=False)


def _put(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """In the place of its parameters or buffers of these names."""
    for name, x in tensors.items():
        owner, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(owner), own_name, x)


def is_divided(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


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


def placed(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: divided in the same way, or on the same device."""
    if isinstance(like, DTensor):
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    return whole.to(like.device)
