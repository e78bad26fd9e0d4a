"""Tells what FSDP2 divided, tensors and modules, from what it did not, without importing it.

torch.distributed.tensor and fsdp take half a second of every start, a whole algebra system (sympy) among it. They are
imported where weights are divided; as long as nobody has imported them, nothing can be divided.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_dtensor(x: object) -> TypeGuard[DTensor]:
    """Tell whether each process holds a shard of this tensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def is_fsdp_module(module: object) -> TypeGuard[FSDPModule]:
    """Tell whether the weights of this module are divided over processes."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)
