"""Two modalities as the sides by which an objective compares them.

The trap: a model gives embeddings of `image` even where an objective trains `image@ssl` or `+image` in its place; a
number about them is one about a projection that nobody trained.
"""

from __future__ import annotations

from dataclasses import replace

from workbench.types import Objective, Side


def compared(objective: Objective, x: str, y: str) -> tuple[Side, Side]:
    """Read two names of sides. Plain ones that are not trained stand for the sides by which y is found from x."""
    a, b = Side.parse(x), Side.parse(y)
    if a.plain and b.plain and not (is_trained(objective, a) and is_trained(objective, b)):
        asked = objective.ask(a.members, y)
        if asked and len(asked.query) == 1:
            return asked.query[0], asked.candidates
    return a, b


def is_trained(objective: Objective, side: Side) -> bool:
    """Whether the objective has this side, with whatever options, or asks by it."""
    known = {replace(side, options=frozenset()) for side in objective.all_sides}
    if replace(side, options=frozenset()) in known:
        return True
    targets = {m for side in known for m in side.members} - set(side.members)
    questions = (objective.ask(side.members, target) for target in targets)
    return side.fused and any(side in asked.query for asked in questions if asked)


def refuse_untrained(objective: Objective, *sides: Side) -> None:
    """Raise ValueError for the first side that the objective does not train, with those that it does."""
    for side in sides:
        if not is_trained(objective, side):
            trained = ", ".join(dict.fromkeys(str(known) for known in objective.all_sides))
            raise ValueError(f"no term of the objective trains side '{side}': name one of {trained}")
