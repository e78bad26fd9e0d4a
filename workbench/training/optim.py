"""AdamW with weight decay on matrices only: norms, biases, and an objective's scale and bias have none.

The trap: the engine sets a group's learning rate at every step, as the scheduled one times the group's `lr_scale`.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from workbench.types import Encoder


def adamw(
    model: nn.Module,
    objective: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    lr_scales: dict[Parameter, float] | None = None,
) -> torch.optim.AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019) over the model's and the objective's trainable parameters.

    `lr_scales` are factors on the learning rate, 1 where a parameter has none. Raises ValueError where all of the
    model is frozen.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("every parameter of the model is frozen: remove a lock, or there is nothing to train")
    own = [p for p in objective.parameters() if p.requires_grad]
    decayed = [(p, weight_decay if p.ndim >= 2 else 0.0) for p in trainable] + [(p, 0.0) for p in own]
    groups: dict[tuple[float, bool, bool], list[Parameter]] = defaultdict(list)
    scales = lr_scales or {}
    for p, decay in decayed:
        groups[scales.get(p, 1.0), decay == 0, isinstance(p, DTensor)].append(p)  # divided ones are updated apart
    described: list[dict[str, Any]] = [
        {"params": members, "weight_decay": 0.0 if plain else weight_decay, "lr_scale": scale}
        for (scale, plain, _), members in groups.items()
    ]
    return torch.optim.AdamW(described, lr=lr, betas=betas, eps=eps, fused=True)


def layer_lr_scales(encoders: Mapping[str, Encoder], decay: float) -> dict[Parameter, float]:
    """decay ** (layers below the top of its tower) for every parameter of the towers (BEiT, arXiv 2106.08254).

    The projection on top has factor 1, the last block decay, the embeddings decay ** (blocks + 1); heads, fusion and
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
