"""Constructors build modules on the meta device without what torch would compute of values that no memory holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

MAKE = (torch.rand, torch.randn, torch.ones)
SCALE = (Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
OVERWRITE = (nn.init.normal_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.triu_)
"""functions that constructors call: tensors of a shape, of the shape of another one, the same tensor with new values"""


class WithoutValues(TorchFunctionMode):
    """Leaves out what constructors compute of values that no memory holds, as `scale * torch.randn(width)`.

    On the meta device torch does such things in Python code that imports its compiler: two seconds of a `wb check`.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in MAKE and "generator" not in given and torch.device(given.get("device") or "meta").type == "meta":
            return torch.empty(*args, **given)
        if func in (*SCALE, *OVERWRITE):
            x, *others = [*args, *given.values()]  # torch.nn.init hands all on by keyword
            fits = x.ndim > 1 or func != Tensor.triu_  # which torch refuses of a vector
            plain = fits and x.is_meta and x.is_floating_point()
            if plain and all(isinstance(value, float | int | None) for value in others):
                return x if func in OVERWRITE else torch.empty(x.shape, dtype=x.dtype, device="meta")
        return func(*args, **given)
