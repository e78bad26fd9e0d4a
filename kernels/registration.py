"""Makes a function an operator of torch, as torch.library.custom_op does, without importing torch's compiler.

custom_op wraps the function so that the compiler never looks inside of it, and this wrapper imports the compiler at its
first call: 2 to 3 seconds of a process that compiles nothing. Here a call looks first whether anybody has imported it.

Trap: unlike custom_op, nothing checks at each call that the results share no memory. opcheck does, in the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._ops import OpOverload

NAMESPACE = "multimodal_workbench"

P = ParamSpec("P")
Result = TypeVar("Result")


def define_operator(name: str, schema: str, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> OpOverload:
    """Registers an operator that computes `function` on every device, and returns it."""
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(qualified, "default", hide_from_compiler(function))
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def hide_from_compiler(function: Callable[P, Result]) -> Callable[P, Result]:
    """Wraps a function that the compiler, where it is imported, never traces."""

    @cache
    def disabled() -> Callable[P, Result]:
        return cast("Callable[P, Result]", torch.compiler.disable(function))

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        return disabled()(*args, **kwargs) if "torch._dynamo" in sys.modules else function(*args, **kwargs)

    return call
