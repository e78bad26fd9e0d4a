"""Usable nats with intervals, and the word that follows from them.

What the best critic of a kind could use is not seen: one that was trained on finitely many samples uses less on new
ones. How much less is told by another that was trained on half of them: if what is lacking falls as one over the number
of samples, as it does to leading order where a model has finitely many parameters, then twice the value less that from
half of the samples is what unlimited ones would give. So an interval has two sources, and covers both:

 1. by how much a value differs from one division of the samples to the next. Every division trains critics from a seed
    of its own and holds out other samples, so the spread is one of seeds, batches and training samples. A t interval
    over K divisions has K - 1 degrees of freedom.
 2. how far unlimited samples would carry it: the interval is the hull of the t interval of what was used and of that of
    what would be.

The trap: nothing here bounds mutual information from above, and nothing can (McAllester and Stratos 2020). What critics
of this kind cannot read is in no interval. It is usable information (Xu et al. 2020), of these critics at this batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from workbench.studies.paired import LEVEL, compare_paired
from workbench.studies.synergy.critics import Fitted

GRAIN = 0.01
"""nats: no interval reaches less far, as a score that is bounded never tells impossible things quite apart"""
SHARE, LEAST = 0.1, 0.05
"""a gain matters from this share of the fused nats on, and from so many nats on"""

Word = Literal["fuse", "pairs are enough", "cannot tell"]


class Interval(NamedTuple):
    """Nats that are used on samples which no critic has seen, and what a critic of this kind could use."""

    mean: float
    low: float
    high: float


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Compute the interval of a mean by Student's t. Raises ValueError for fewer than two values."""
    found = compare_paired(values, level)
    if found.low is None or found.high is None:
        raise ValueError(f"{len(values)} value has no spread: at least 2 are needed")
    return Interval(found.mean, found.low, found.high)


def hull(nats: Sequence[float], from_half: Sequence[float]) -> Interval:
    """Join the t interval of what was used with that of what unlimited samples would give; its mean is the first."""
    found = t_interval(nats)
    more = t_interval([2 * whole - half for whole, half in zip(nats, from_half, strict=True)])
    low, high = min(found.low, more.low, found.mean - GRAIN), max(found.high, more.high, found.mean + GRAIN)
    return Interval(found.mean, low, high)


def usable(fits: Sequence[Fitted], ceiling: float) -> Interval:
    """Compute the usable nats of a critic from its fits, one a division. They are between 0, which a constant score
    uses, and the ceiling ln B."""
    found = hull([fit.nats for fit in fits], [fit.from_half for fit in fits])
    return Interval(*(min(max(value, 0.0), ceiling) for value in found))


def gain_of(fused: Sequence[Fitted], summed: Sequence[Fitted]) -> Interval:
    """Compute the nats that a fused critic uses beyond a sum of scores, paired by division.

    The best fused critic uses no less than the best sum, which is part of it: the upper end is at least 0.
    """
    pairs = list(zip(fused, summed, strict=True))
    found = hull([f.nats - s.nats for f, s in pairs], [f.from_half - s.from_half for f, s in pairs])
    return found._replace(high=max(found.high, 0.0))


def least(values: Sequence[Interval]) -> Interval:
    """Compute the interval of the least of several values, each end by itself."""
    mean, low, high = (min(ends) for ends in zip(*values, strict=True))
    return Interval(mean, low, high)


def margin_of(fused: Interval) -> float:
    """Say from how many nats on a gain matters."""
    return max(LEAST, SHARE * fused.mean)


def decide(fused: Interval, gain: Interval) -> Word:
    """Say whether fusing helps: where the whole interval of the gain lies above the margin, or below."""
    margin = margin_of(fused)
    if gain.low > margin:
        return "fuse"
    return "pairs are enough" if gain.high < margin else "cannot tell"


def samples_to_tell(gain: Interval, margin: float, samples: int) -> int | None:
    """Guess how many samples might tell, from intervals that shrink as the root of their number; None: too many."""
    away = abs(gain.mean - margin)
    needed = samples * ((gain.high - gain.low) / 2 / away) ** 2 if away > 0 else math.inf
    return round(needed) if needed < 1000 * samples else None
