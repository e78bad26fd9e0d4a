"""Learning rate over a run: linear warmup, then a cosine down to zero (Loshchilov and Hutter 2017)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every optimizer step.

    Args:
        peak: the rate that the warmup ends with.
        warmup: steps of the warmup; cut to `total` where it is longer.
        total: steps until the rate is zero. Behind it the last rate is kept, so that training can still go on.
    """

    peak: float
    warmup: int
    total: int

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.peak * self._factor(min(step, max(0, self.total - 1)), min(self.warmup, self.total))

    def _factor(self, step: int, warmup: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.total - warmup)))
