"""Frozen parts of a tower compute as in evaluation: a dropout in them would only be noise, and a BatchNorm no map of
single samples."""

from __future__ import annotations

from torch import nn


def rest_frozen_parts(module: nn.Module) -> None:
    """Put every part whose parameters are all frozen into eval mode; an encoder's `train` calls it."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    for child in module.children():
        rest_frozen_parts(child)
