"""Which numbers a weight may be: the one check that has to read values, and what it does where the host may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.distributed import sum_over
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Bool

RANGES = dict.fromkeys(("x_weight", "y_weight"), "weights must be >= 0, 0 is absent") | dict.fromkeys(
    ("x_log_weight", "y_log_weight"), "log-weights must be finite; what is to be absent has x_weight or y_weight 0"
)
"""what has to be true of the numbers of each kind of weight"""


def find_wrong_weights(problem: Problem) -> Bool[Tensor, ""] | None:
    """Says whether a weight is none: on the CPU by a ValueError, elsewhere in a tensor.

    Reading that tensor would make the host wait for the device at every step, so it turns the results into NaN instead.
    """
    given = {name: getattr(problem, name) for name in RANGES}
    given = {name: weight for name, weight in given.items() if weight is not None}
    wrong = {name: _is_wrong(name, weight) for name, weight in given.items()}
    if all(weight.is_cpu for weight in given.values()):
        for name, found in wrong.items():
            if found.any():
                raise ValueError(f"{name} has the value {given[name][found][0].item()}: {RANGES[name]}")
        return None
    # Over a group every rank has to know, or the loss would be NaN on one rank only
    (number,) = sum_over(problem.group, torch.stack([found.sum() for found in wrong.values()]).sum())
    return number > 0


def _is_wrong(name: str, weight: Tensor) -> Bool[Tensor, " n"]:
    return ~weight.isfinite() if "log" in name else ~(weight >= 0)  # not < 0, which NaN is not
