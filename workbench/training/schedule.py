"""Learning rate over a run: linear warmup, then a cosine down to zero (Loshchilov and Hutter 2017)."""

import math


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor on the peak learning rate for optimizer step `step` (from 0); a warmup longer than the run is clamped."""
    warmup = min(warmup, total)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
