"""Weights divided over processes (FSDP2): each holds a shard of every matrix, of its gradient and its optimizer state.

A block's matrices are gathered right before the block runs and released after it. Under bf16 they travel in bf16 where
autocast would round them anyway, which halves the traffic and computes the same. Vectors (gains, biases) are replicated
on every process in fp32.

The trap: a forward pass through divided weights waits for all processes and, in bf16, sees rounded matrices. But the
first process evaluates and draws pictures alone, in fp32. It does so with a copy of the model that `EvaluationModel`
fills.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._pytree import SUPPORTED_NODES, register_dataclass

from workbench.distributed.dtensor import is_dtensor, is_fsdp_module
from workbench.model import Model
from workbench.types import Features

if TYPE_CHECKING:
    from torch.distributed.fsdp import MixedPrecisionPolicy

ROUNDED = {module.forward for module in (nn.Linear, nn.MultiheadAttention, nn.Conv1d, nn.Conv2d, nn.Conv3d)}
"""forwards that autocast runs with their matrices rounded to bf16; a subclass may use its matrix in another way"""


def divide(model: Model, mesh: DeviceMesh, precision: str = "fp32") -> None:
    """Divide every matrix of the model over a mesh: (shard,), or (replicate, shard) for several divided copies.

    Where an encoder names its `repeated()` layers, each is gathered by itself: no process ever holds more than one of
    them whole. With `precision` bf16 such a layer is gathered in bf16, unless one of its matrices is used in a way that
    autocast leaves in fp32.
    """
    from torch.distributed.fsdp import fully_shard

    if Features not in SUPPORTED_NODES:  # FSDP looks for tensors in the outputs, and in torch 2.11 only inside pytrees
        register_dataclass(Features)
    # a vector is too small to be worth a message, and a norm's gain has to stay in fp32
    vectors = {p for p in model.parameters() if p.ndim < 2}
    for encoder in model.encoders.values():
        for block in encoder.repeated():
            policy = _policy(precision == "bf16" and _is_rounded_anyway(block))
            fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=vectors)
    # inner modules first: an outer call takes the parameters that no inner one has taken, the root takes the rest
    outer = [*model.encoders.values(), *model.heads.values(), *([model.fusion] if model.fusion else [])]
    for module in (*outer, model):
        fully_shard(module, mesh=mesh, ignored_params=vectors)


def _policy(in_bf16: bool) -> MixedPrecisionPolicy:
    """Gather matrices in bf16 and sum gradients in fp32, or do all in fp32. The inputs of a block are left as they
    are."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if not in_bf16:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)


def _is_rounded_anyway(block: nn.Module) -> bool:
    """Whether autocast rounds every matrix of the block before it uses it; a hook may read one before that."""
    return all(
        type(module).forward in ROUNDED and not module._forward_pre_hooks
        for module in block.modules()
        if any(p.ndim >= 2 for p in module.parameters(recurse=False))
    )


class EvaluationModel:
    """The model that evaluations run: the trained one or, where that is divided, a `copy` on the first process.

    `gather` gives the copy all weights in fp32, until `release`. For a model that is not divided both do nothing.

    Args:
        trained: the model that is trained.
        divided: whether its weights are divided over processes.
        copy: on the process that evaluates, a second model of the same structure; it is emptied here.
    """

    def __init__(self, trained: Model, divided: bool = False, copy: Model | None = None) -> None:
        self.trained, self.divided, self.copy = trained, divided, copy
        self._filled = False
        if copy is not None:
            # between evaluations the copy costs no memory: its parameters are on the meta device
            named = copy.named_parameters(remove_duplicate=False)
            self._empty = {name: _freeze(torch.empty_like(p, device="meta")) for name, p in named}
            _set_tensors(copy, self._empty)

    @property
    def model(self) -> Model:
        return self.trained if self.copy is None else self.copy

    def gather(self) -> None:
        """Fill the copy. A collective: every process calls it, also those that have no copy."""
        if not self.divided or self._filled:
            return
        # one tensor at a time, so that a process without a copy never holds more than one of them whole
        for name, p in self.trained.named_parameters(remove_duplicate=False):
            weights = gather_full(p.detach())
            if self.copy is not None:
                _set_tensors(self.copy, {name: _freeze(weights)})
        if self.copy is not None:
            _set_tensors(self.copy, dict(self.trained.named_buffers(remove_duplicate=False)))
        self._filled = True

    def release(self) -> None:
        """Empty the copy: training wants the memory."""
        if self._filled and self.copy is not None:
            _set_tensors(self.copy, self._empty)
        self._filled = False


def _freeze(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x, requires_grad=False)


def _set_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace the parameters or buffers of these names."""
    for name, x in tensors.items():
        owner, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(owner), own_name, x)


def is_divided(model: nn.Module) -> bool:
    return any(is_fsdp_module(module) for module in model.modules())


def gather_full(x: Tensor) -> Tensor:
    """The whole of a tensor of which each process holds a shard. A collective: every process calls it."""
    return x.full_tensor() if is_dtensor(x) else x


def local_part(x: Tensor) -> Tensor:
    """This process's shard of a divided tensor; any other tensor as it is."""
    return x.to_local() if is_dtensor(x) else x


def place_like(x: Tensor, like: Tensor) -> Tensor:
    """Place a whole tensor as `like` is placed: divided in the same way, or on the same device."""
    if is_dtensor(like):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)
    return x.to(like.device)


def clip_gradients(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """Scale all gradients to a joint norm of at most `limit`; returns the norm that they had before."""
    with_gradient = [p for p in parameters if p.grad is not None]
    # torch takes no norm over divided and other tensors together, so each kind has its own; their squares add up
    kinds = [[p for p in with_gradient if is_dtensor(p) == divided] for divided in (True, False)]
    norms = [gather_full(nn.utils.get_total_norm([p.grad for p in k if p.grad is not None])) for k in kinds if k]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        if kind and limit is not None:
            nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm
