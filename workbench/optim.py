"""AdamW with weight decay on matrices only: norms, biases, and an objective's scale and bias have none."""

import torch
from torch import nn


def adamw(
    model: nn.Module, objective: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019) over the model's and the objective's parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    plain = [p for p in parameters if p.ndim < 2]
    its_own = [p for p in objective.parameters() if p.requires_grad]  # never divided, as the model's may be
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": its_own, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=True)
