"""Every module beside the Protocol that it keeps to. Nothing imports this file: pyright reads it, and fails where a
module lacks a function of its Protocol or has it with another signature."""

from __future__ import annotations

from kernels import ops, reference
from kernels.backends import Backend, Losses
from kernels.chunked import losses as chunked
from kernels.tiles import losses as tiles

DIFFERENTIABLE: tuple[Losses, ...] = reference, ops
BEHIND_OPERATORS: tuple[Backend, ...] = chunked, tiles
