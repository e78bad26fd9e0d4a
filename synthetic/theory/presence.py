"""Which modalities of a sample are there, and how many rows of a batch that leaves a term of a loss.

A task says it as a distribution over patterns: {modalities seen together: share of the samples}. Who is present never
depends on the codes (missing completely at random), so it changes no density ratio, only the number of rows N of a
batch that have all members of a term: N ~ Binomial(B, share). A term without rows costs 0.

The trap: a pair that is never seen together has a term of value 0, which is its optimum and teaches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from synthetic.theory.joint import Joint

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64
    from torch import Tensor

Seen = Mapping[tuple[str, ...], float]
"""{modalities seen together: share of the samples}; the shares add up to 1"""


class Shown(Protocol):
    """A task as far as it matters here: `synthetic.theory.task.Task` has more."""

    @property
    def modalities(self) -> tuple[str, ...]: ...


def seen_of(task: Shown) -> Seen:
    """Return a task's patterns: its `seen`, or every modality of every sample."""
    return getattr(task, "seen", {tuple(task.modalities): 1.0})


def share(seen: Seen, members: Sequence[str]) -> float:
    """Compute the share of the samples that have all these modalities."""
    return min(1.0, sum(p for pattern, p in seen.items() if set(members) <= set(pattern)))


def draw(seen: Seen, modalities: Sequence[str], n: int, generator: torch.Generator) -> dict[str, Bool[Tensor, " n"]]:
    """Draw which of n samples have each modality."""
    patterns = torch.tensor([[m in pattern for m in modalities] for pattern in seen])
    which = torch.multinomial(torch.tensor(list(seen.values())), n, replacement=True, generator=generator)
    return dict(zip(modalities, patterns[which].T, strict=True))


def thin(seen: Seen, rates: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Let each modality of each pattern go missing independently, at its own rate."""
    left: dict[tuple[str, ...], float] = {}
    for pattern, p in seen.items():
        for kept in (k for size in range(len(pattern) + 1) for k in combinations(pattern, size)):
            odds = math.prod(1 - rates[m] if m in kept else rates[m] for m in pattern)
            left[kept] = left.get(kept, 0.0) + p * odds
    return {pattern: p for pattern, p in left.items() if p > 0}


def partly(joint: Joint, seen: Seen, group: tuple[str, ...], target: str) -> tuple[Joint, float] | None:
    """Make the distribution of what is there of a group, beside a target, among the samples that have the target and
    any of the group; and the share of these samples. Code 0 stands for a member that is missing, the others move up by
    one. None when there is no such sample."""
    rows: dict[tuple[str, ...], float] = {}
    for pattern, p in seen.items():
        if target in pattern and set(group) & set(pattern):
            there = tuple(m for m in group if m in pattern)
            rows[there] = rows.get(there, 0.0) + p
    if not rows:
        return None
    part = sum(rows.values())
    columns = joint.columns((*group, target))
    shown = [{m: c + 1 if m in there or m == target else c * 0 for m, c in columns.items()} for there in rows]
    stacked = {m: np.concatenate([one[m] for one in shown]) for m in columns}
    probability = np.concatenate([joint.probability * p / part for p in rows.values()])
    return Joint.merge({m: joint.codes[m] + 1 for m in columns}, stacked, probability), min(1.0, part)


@dataclass(frozen=True)
class Rows:
    """The number N of a batch's samples that a term sees. Raises ValueError when `batch` < 2."""

    batch: int
    share: float = 1.0
    """probability that a sample has all members of the term"""

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"batch ({self.batch}) has no negatives: at least 2 are needed")

    @property
    def some(self) -> float:
        """The probability P(N > 0)."""
        return 1 - (1 - self.share) ** self.batch

    @property
    def negatives(self) -> float:
        """The expected number of negatives, E[N - 1; N > 0]."""
        return self.batch * self.share - self.some

    def power(self, z: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, " t"]:
        """Compute E[z^(N-1); N > 0] for 0 <= z <= 1."""
        if self.share == 1:
            return z ** (self.batch - 1)
        z = np.maximum(z, 1e-200)
        generating = np.exp(self.batch * np.log1p(-self.share * (1 - z)))  # E z^N, of which P(N = 0) is taken away
        return generating * -np.expm1(-self.batch * np.log1p(self.share / (1 - self.share) * z)) / z

    @property
    def log_count(self) -> float:
        """E[log N; N > 0], the value of InfoNCE without information."""
        return float(binomial(self.batch, self.share)[1:] @ np.log(np.arange(1, self.batch + 1)))


def binomial(n: int, p: float) -> Float64[np.ndarray, " n+1"]:
    """Compute the probabilities of 0 .. n successes, through their logarithms: (1 - p)^n underflows at a large n."""
    count = np.arange(n + 1)
    if p in (0, 1):
        return (count == p * n).astype(float)
    steps = np.log((n - count[:-1]) / (count[:-1] + 1) * p / (1 - p))
    return np.exp(n * math.log1p(-p) + np.concatenate([[0.0], steps.cumsum()]))
