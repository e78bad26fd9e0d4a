"""What is known of a task before any training: the record a run is judged against.

A floor is the exact optimum at the batch size, not ln B - I, which no model reaches: `synthetic.theory.optima`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any

from synthetic.theory.information import (
    bayes_accuracy,
    best_single_accuracy,
    mutual_information,
    total_correlation,
)
from synthetic.theory.joint import Joint
from synthetic.theory.optima import Optimum, infonce_optimum, sigmoid_optimum, symile_optimum

CONFU_LAMBDA = 0.5


@dataclass(frozen=True)
class Truth:
    """Information and losses in nats, accuracies as shares."""

    task: str
    target: str
    """the modality predicted from the others"""
    pairwise_information: dict[str, float]
    """{"a,b": I(a; b)}"""
    total_correlation: float
    bayes_accuracy: float
    """of the target from all the others"""
    best_single_accuracy: float
    """of the target from the best one of the others"""
    chance: float
    """1 / size of the target's alphabet"""
    batch: int
    """the contrastive batch size of the floors"""
    floors: dict[str, Optimum]
    """{objective: its optimum}, in the published form, a sum over terms: see `_floors`"""
    joint: Joint = field(repr=False)

    @staticmethod
    def of(task: str, joint: Joint, target: str, batch: int) -> Truth:
        """Raises ValueError when `batch` < 2."""
        names = tuple(joint.codes)
        return Truth(
            task=task,
            target=target,
            pairwise_information={f"{a},{b}": mutual_information(joint, (a,), (b,)) for a, b in combinations(names, 2)},
            total_correlation=total_correlation(joint),
            bayes_accuracy=bayes_accuracy(joint, target, tuple(m for m in names if m != target)),
            best_single_accuracy=best_single_accuracy(joint, target),
            chance=1 / joint.codes[target],
            batch=batch,
            floors=_floors(joint, batch),
            joint=joint,
        )

    def infonce(self, a: tuple[str, ...], b: tuple[str, ...]) -> Optimum:
        """Symmetric InfoNCE between two groups of modalities. Raises ValueError for an unknown modality."""
        return infonce_optimum(self.joint, a, b, self.batch)

    def sigmoid(self, a: tuple[str, ...], b: tuple[str, ...]) -> Optimum:
        """SigLIP's loss between two groups of modalities. Raises ValueError for an unknown modality."""
        return sigmoid_optimum(self.joint, a, b, self.batch)

    def symile(self) -> Optimum:
        """Symile with `n` negatives. Raises ValueError below three modalities."""
        return symile_optimum(self.joint, self.batch)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON-able values at full precision, without the joint distribution."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "joint"}
        return {**record, "floors": {name: optimum._asdict() for name, optimum in self.floors.items()}}


def _floors(joint: Joint, batch: int) -> dict[str, Optimum]:
    """clip, siglip: the sum over pairs. confu (arXiv 2511.21331): (1 - lambda) pairs + lambda fusions, a fusion
    being a pair against each modality outside it. symile: its one term, where there are three modalities."""
    names = tuple(joint.codes)
    pairs = list(combinations(names, 2))
    contrasts = [infonce_optimum(joint, (a,), (b,), batch) for a, b in pairs]
    floors = {
        "clip": _weighted_sum((1, o) for o in contrasts),
        "siglip": _weighted_sum((1, sigmoid_optimum(joint, (a,), (b,), batch)) for a, b in pairs),
    }
    if len(names) > 2:
        fusions = [infonce_optimum(joint, ab, (c,), batch) for ab in pairs for c in names if c not in ab]
        floors["symile"] = symile_optimum(joint, batch)
        floors["confu"] = _weighted_sum(
            [(1 - CONFU_LAMBDA, o) for o in contrasts] + [(CONFU_LAMBDA, o) for o in fusions]
        )
    return floors


def _weighted_sum(terms: Iterable[tuple[float, Optimum]]) -> Optimum:
    weight, optimum = zip(*terms, strict=True)
    value, no_information = (sum(w * o[i] for w, o in zip(weight, optimum, strict=True)) for i in (0, 1))
    return Optimum(value, no_information)
