"""AdamW with weight decay on matrices only: norms, biases, and an objective's scale and bias have none.

The trap: the engine sets a group's learning rate at every step, to the scheduled one times the group's `lr_scale`.
"""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from workbench.distributed.dtensor import is_dtensor
from workbench.distributed.sharding import place_like
from workbench.errors import RecipeError
from workbench.types import Encoder


def trainable_parameters(model: nn.Module) -> list[Parameter]:
    """List the parameters that are not frozen. Raises RecipeError where that is none."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise RecipeError("every parameter of the model is frozen: remove a lock, or there is nothing to train")
    return trainable


class AdamW(torch.optim.AdamW):
    """Update as torch.optim.AdamW does, bit for bit, without importing torch's compiler.

    torch wraps these methods for programs that compile an optimizer's step. A wrapper imports the compiler at its first
    call: 2 to 3 seconds of every process, for nothing, as here only towers are compiled, if anything is. So the methods
    inside of the wrappers are called; where a release of torch has no wrapper, they are the same ones.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(torch.optim.AdamW.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(torch.optim.AdamW.zero_grad)(self, set_to_none)

    @torch.no_grad()  # which the wrapper of a step does besides
    def step(self, closure: None = None) -> None:
        inspect.unwrap(torch.optim.AdamW.step)(self)


def adamw(
    model: nn.Module,
    objective: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    lr_scales: dict[Parameter, float] | None = None,
) -> AdamW:
    """Make AdamW (Loshchilov and Hutter 2019) over the trainable parameters of model and objective.

    `lr_scales` are factors on the learning rate, 1 where a parameter has none. Raises ValueError where the whole model
    is frozen.
    """
    trainable = trainable_parameters(model)
    own = [p for p in objective.parameters() if p.requires_grad]
    decayed = [(p, weight_decay if p.ndim >= 2 else 0.0) for p in trainable] + [(p, 0.0) for p in own]
    groups: dict[tuple[float, bool, bool], list[Parameter]] = defaultdict(list)
    scales = lr_scales or {}
    for p, decay in decayed:
        # the fused update takes divided and other tensors in separate groups only
        groups[scales.get(p, 1.0), decay == 0, is_dtensor(p)].append(p)
    described: list[dict[str, Any]] = [
        {"params": members, "weight_decay": 0.0 if plain else weight_decay, "lr_scale": scale}
        for (scale, plain, _), members in groups.items()
    ]
    return AdamW(described, lr=lr, betas=betas, eps=eps, fused=True)


def layer_lr_scales(encoders: Mapping[str, Encoder], decay: float) -> dict[Parameter, float]:
    """Give every parameter of the towers the factor decay ** (layers between it and the top; BEiT, arXiv 2106.08254).

    The projection on top has factor 1, the last block `decay`, the embeddings decay ** (blocks + 1). Heads, fusion and
    objective are no part of a tower and learn at the full rate. Raises ValueError when no encoder knows its depths.
    """
    scales: dict[Parameter, float] = {}
    for encoder in encoders.values():
        depths = encoder.depths()
        top = max(depths.values(), default=0)
        scales |= {p: decay ** (top - depths[name]) for name, p in encoder.named_parameters() if name in depths}
    if not scales:
        raise ValueError(f"train.layer_decay={decay}: none of the encoders says how deep its layers lie: remove it")
    return scales


def named_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Name the optimizer's state by the module's parameters, so that it does not depend on the order of groups."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}.{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_state(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put whole tensors of `named_state` in the place of the optimizer's state."""
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for name, value in tensors.items():
        owner, _, key = name.rpartition(".")
        like = parameters[owner]
        # a moment is divided as its parameter is; a single number, such as the count of steps, is not
        optimizer.state[like][key] = place_like(value, like) if value.ndim else value.to(like.device)
