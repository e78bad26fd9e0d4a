"""Standardisation by the training split: numbers in units of their own become numbers around 0 with spread 1.

The trap: a channel that never varies has the spread 0. It is divided by 1, so that it stays a constant and no infinity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

GROUP = 1024
"""single rows that are measured at once: one by one they would take a hundred times as long"""


class Standardise(nn.Module):
    """Subtracts a mean and divides by a spread, channel by channel. Both are buffers: a checkpoint has them."""

    mean: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return (x - self.mean) / self.spread

    @torch.no_grad()
    def measure(self, groups: Iterable[Float[Tensor, "rows ..."]]) -> None:
        """Set mean and spread (the standard deviation) to those of all rows. Raises ValueError where there is none.

        Groups are joined one by one in float64 (Chan, Golub and LeVeque 1979, equation 2.1): a sum of squares would
        lose all digits of a spread that is small beside its mean.
        """
        count = 0
        mean = squares = torch.zeros(self.mean.shape, dtype=torch.float64)
        for group in groups:
            rows = group.double()
            more, total = len(rows), count + len(rows)
            apart = rows.mean(0) - mean
            squares = squares + (rows - rows.mean(0)).square().sum(0) + apart.square() * (count * more / total)
            mean, count = mean + apart * (more / total), total
        if not count:
            raise ValueError("the training split has no item to standardise by: set standardise to false")
        spread = (squares / count).sqrt()
        # a constant is no exact 0 after the rounding of its mean
        spread[spread <= 1e-7 * mean.abs()] = 1
        self.mean.copy_(mean)
        self.spread.copy_(spread)


def in_groups(rows: Iterable[Tensor]) -> Iterator[Float[Tensor, "rows ..."]]:
    """Stack single rows to groups."""
    source = iter(rows)
    while group := list(islice(source, GROUP)):
        yield torch.stack(group)
