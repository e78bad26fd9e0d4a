"""One loss at several prefixes of the dimensions: Matryoshka embeddings (Kusupati et al. 2022, arXiv 2205.13147)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kernels.dispatch import choose_backend, multi_positive_infonce, multi_positive_sigmoid

if TYPE_CHECKING:
    from jaxtyping import Float


def matryoshka(
    loss: Callable[..., Tensor],
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    *others: Tensor | float,
    prefixes: Mapping[int, float] | Sequence[int],
    **options: object,
) -> Float[Tensor, ""]:
    """Computes sum_k w_k loss(x[:, :d_k], y[:, :d_k], *others, **options) for prefixes {d_k: w_k}; in a list w_k is 1.

    The prefixes' rows are brought to unit length each, as those that search with them will. `loss` is any of this
    package that returns a number. On the backend `chunked` InfoNCE and sigmoid loss take one pass over the products of
    all prefixes; else time is the sum of the prefixes' own. Memory is linear; the gradient is exact, through the
    lengths too. The whole width counts only where it is among the prefixes.
    Raises ValueError where a prefix is no part of the dimensions or a weight is none.
    """
    weights = dict(prefixes) if isinstance(prefixes, Mapping) else dict.fromkeys(prefixes, 1.0)
    width = min(x.shape[1], y.shape[1])
    if not weights or len(weights) != len(prefixes):
        raise ValueError(f"prefixes are {prefixes}: give one or more numbers of dimensions, each once")
    for size, weight in weights.items():
        if not 1 <= size <= width:
            raise ValueError(f"a prefix has {size} dimensions and the rows have {width}: it must be 1 to {width}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"the prefix of {size} dimensions has the weight {weight}: it must be finite and >= 0")
    if _takes_one_pass(loss, x, y, weights, options):
        return loss(x, y, *others, **options, _prefixes=weights)
    parts = [weight * loss(_cut(x, size), _cut(y, size), *others, **options) for size, weight in weights.items()]
    return torch.stack(parts).sum()


def _cut(z: Float[Tensor, "n d"], size: int) -> Float[Tensor, "n size"]:
    """Returns the unit rows of a prefix; where it is the whole, the rows as they are, which the kernels take so too."""
    return z if size == z.shape[1] else normalize(z[:, :size], dim=1)


def _takes_one_pass(
    loss: Callable[..., Tensor], x: Tensor, y: Tensor, weights: Mapping[int, float], options: Mapping[str, object]
) -> bool:
    """Says whether the loss takes all prefixes at once."""
    if loss not in (multi_positive_infonce, multi_positive_sigmoid) or len(weights) < 2 or x.shape[1] != y.shape[1]:
        return False
    return choose_backend(str(options.get("backend", "auto")), x) == "chunked"
