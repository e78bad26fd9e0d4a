"""What the public functions refuse of their arguments, and the one form that they bring them to.

Trap: no value of a tensor is read here, so that torch.compile traces it and no GPU has to be waited for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.autograd import accumulation_dtype

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch.distributed import ProcessGroup

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_rows(x: Tensor, y: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Returns both in the wider of their dtypes, which holds the other's values exactly."""
    check_features("x", x, may_be_empty=group is not None)  # a rank's strip may be
    check_features("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions and y has {y.shape[1]}: project both to the same width")
    if x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: move them to one device")
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def check_features(name: str, z: Tensor, *, may_be_empty: bool = False) -> None:
    """Raises ValueError for what are no rows of features."""
    if z.dim() != 2:
        raise ValueError(f"{name} has shape {list(z.shape)}: it must be [rows, dimensions]; flatten views into rows")
    if z.dtype not in FLOATS:
        raise ValueError(
            f"{name} is {z.dtype}: it must be float16, bfloat16, float32 or float64; convert it with .float()"
        )
    if z.shape[1] == 0 or (z.shape[0] == 0 and not may_be_empty):
        raise ValueError(
            f"{name} has shape {list(z.shape)}, which leaves nothing to contrast: skip the loss of an empty batch"
        )


def check_scalar(name: str, value: Tensor | float, x: Tensor) -> Float[Tensor, ""]:
    """Returns a scale or bias in the dtype of the results."""
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=accumulation_dtype(x, x), device=x.device)
    if value.shape not in ((), (1,)):
        raise ValueError(f"{name} has shape {list(value.shape)}: it must be a number or of shape [] or [1]")
    return value.to(x.device, accumulation_dtype(x, x)).reshape(())


def check_ids(side: str, ids: Tensor, z: Tensor) -> Tensor:
    """Returns ids as int64, which every integer dtype fits into: uint64 wraps around, and equal ids stay equal."""
    if ids.shape != z.shape[:1]:
        raise ValueError(f"{side}_ids has shape {list(ids.shape)}, but {side} has {len(z)} rows: pass one id per row")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{side}_ids is {ids.dtype}: ids must be integers")
    if ids.device != z.device:
        raise ValueError(f"{side}_ids is on {ids.device} and {side} on {z.device}: move the ids there")
    return ids.to(torch.int64)


def check_weight(name: str, weight: Tensor | None, z: Tensor) -> Tensor | None:
    """Returns weights, x_... or y_..., in the dtype of the results. Their values are checked in kernels.weights."""
    if weight is None:
        return None
    side = name[0]
    if weight.shape != z.shape[:1]:
        raise ValueError(
            f"{name} has shape {list(weight.shape)}, but {side} has {len(z)} rows: pass one weight per row"
        )
    if weight.device != z.device:
        raise ValueError(f"{name} is on {weight.device} and {side} on {z.device}: move the weights there")
    if weight.requires_grad:
        raise ValueError(f"{name} requires a gradient, but weights get none: pass {name}.detach()")
    return weight.to(accumulation_dtype(z, z))


def check_self(x: Tensor, y: Tensor, x_offset: int) -> None:
    """Raises ValueError where a row would be no row of y."""
    if not 0 <= x_offset <= len(y) - len(x):
        raise ValueError(
            f"x has {len(x)} rows, x_offset is {x_offset} and y has {len(y)} rows, but to exclude itself row i of x "
            "must be row x_offset + i of y: pass all rows as y, and as x_offset where x begins among them"
        )


def check_label_smoothing(share: float, margin: float | None) -> float:
    """Returns the share of a target that is spread, or raises ValueError where it is none."""
    if not 0 <= share < 1:
        raise ValueError(
            f"label_smoothing is {share}: it is a share of the target, 0 <= label_smoothing < 1 (0.1 is usual)"
        )
    if share and margin is not None:
        raise ValueError(
            f"label_smoothing is {share} and false_negative_margin {margin}: the one spreads the target over every "
            "column, and the other takes columns away; use one of the two"
        )
    return float(share)


def check_hardness(hardness: float) -> float:
    """Returns how much harder negatives weigh, or raises ValueError where it is no such number."""
    if not 0 <= hardness < math.inf:
        raise ValueError(f"hardness is {hardness}: it must be finite and >= 0; 0 weighs all negatives alike")
    return float(hardness)


def check_guides(
    x_guide: Tensor | None, y_guide: Tensor | None, x: Tensor, y: Tensor, margin: float | None
) -> tuple[Tensor | None, Tensor | None]:
    """Returns guides without their gradient, or raises ValueError where they do not fit or nothing asks for them."""
    if margin is not None and not math.isfinite(margin):
        raise ValueError(f"false_negative_margin is {margin}: it must be finite; None lets every negative count")
    if x_guide is None and y_guide is None:
        return None, None
    if x_guide is None or y_guide is None:
        given, missing = ("y", "x") if x_guide is None else ("x", "y")
        raise ValueError(f"{given}_guide came without {missing}_guide: cosines take both, or neither")
    if margin is None:
        raise ValueError("x_guide and y_guide tell false negatives, and no false_negative_margin is given: pass 0.0")
    for name, guide, z in (("x", x_guide, x), ("y", y_guide, y)):
        check_features(f"{name}_guide", guide, may_be_empty=True)
        if len(guide) != len(z) or guide.device != z.device:
            raise ValueError(
                f"{name}_guide has {len(guide)} rows on {guide.device}, and {name} has {len(z)} on {z.device}: pass "
                "one row for each, there"
            )
    if x_guide.shape[1] != y_guide.shape[1]:
        widths = f"x_guide has {x_guide.shape[1]} dimensions and y_guide has {y_guide.shape[1]}"
        raise ValueError(f"{widths}: take both from one guide")
    return x_guide.detach(), y_guide.detach()
