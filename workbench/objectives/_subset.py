"""Validity of sides that are fused from whatever subset of their members is there.

The model calls a fused row valid when all its members are; where absence is a mask in the fusion, one member is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.model import zipped


def some_member(valid: Sequence[Bool[Tensor, "b _"]]) -> Bool[Tensor, "b k"]:
    """Say of every fused row whether it has a member at all. The members' views are zipped, as the model does."""
    _, present = zipped(valid)
    return torch.stack(present).any(0)
