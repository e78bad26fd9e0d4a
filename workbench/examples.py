"""The raw examples behind one side of a split: what an evaluator hands to `Context.embed`.

The trap: `raw` may decode its images on access, so rows are chosen without reading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from workbench.types import Context, Side, Split, View


class Rows(Sequence[Any]):
    """Chosen rows of a sequence, read only when asked for."""

    def __init__(self, raw: Sequence[Any], rows: list[int]) -> None:
        self.raw, self.rows = raw, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        return Rows(self.raw, self.rows[at]) if isinstance(at, slice) else self.raw[self.rows[at]]


@dataclass(frozen=True)
class Examples:
    """n raw items of every member of a side, and the ids that link them to other sides."""

    side: Side
    raw: dict[str, Sequence[Any]]
    ids: Int64[Tensor, " n"]
    targets: dict[str, Int64[Tensor, " n"]]

    @staticmethod
    def of(split: Split, name: str) -> Examples:
        """The examples of the side called `name`.

        Raises ValueError when the split lacks a member, or does not pair the members that the side fuses.
        """
        side = Side.parse(name)
        if missing := [m for m in side.members if m not in split.items]:
            have = ", ".join(split.items)
            raise ValueError(f"side {name!r} needs {', '.join(missing)}: this split has {have}")
        if len(side.members) > 1 and not split.paired:
            raise ValueError(
                f"side {name!r} fuses {' and '.join(side.members)}, whose rows this split does not pair: "
                "evaluate plain sides, or name a paired split"
            )
        items = [split.items[m] for m in side.members]
        assert all(item.ids.equal(items[0].ids) for item in items), "paired rows belong to one sample"
        raw = {m: split.items[m].raw for m in side.members}
        return Examples(side, raw, items[0].ids, items[0].targets)

    def take(self, rows: Int64[Tensor, " m"]) -> Examples:
        raw: dict[str, Sequence[Any]] = {m: Rows(x, rows.tolist()) for m, x in self.raw.items()}
        return Examples(self.side, raw, self.ids[rows], {name: t[rows] for name, t in self.targets.items()})

    def embed(self, context: Context) -> View:
        """Their embeddings in float32 on the CPU, one view each."""
        name = str(self.side)
        return context.embed(self.raw, [name])[name]
