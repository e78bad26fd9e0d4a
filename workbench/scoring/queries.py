"""What asks and what answers: the sides by which an objective finds one modality from others.

The trap: a model of several modalities has many ways to ask, and each objective forms them in its own way (a fusion, a
product, a mean of cosines). An evaluation that forms them otherwise measures something that was never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def modalities(objective: Any) -> tuple[str, ...]:
    """Those that the objective aligns, in the recipe's order."""
    named = (m for side in objective.all_sides for m in side.members)
    return tuple(getattr(objective, "modalities", dict.fromkeys(named)))


def query_sides(objective: Any, given: Sequence[str], target: str) -> list[str]:
    """Sides whose score with the target's finds it from all the `given` modalities; none when nothing trained does.

    They are the objective's own. Where it never contrasts the given ones with the target, they are the given ones by
    themselves, if it trains them and the target: what they tell of it is emergent. An objective that does not say what
    it forms (no `query_sides`) is asked by single modalities only.
    """
    says = hasattr(objective, "query_sides")
    if formed := objective.query_sides(given, target) if says else []:
        return formed
    plain = {str(side) for side in objective.all_sides}
    return [m for m in given if {m, target} <= plain] if says or len(given) == 1 else []


def candidate_side(objective: Any, target: str) -> str:
    """The side that is searched for a modality: its own, unless the objective names another."""
    return objective.candidate_side(target) if hasattr(objective, "candidate_side") else target
