"""A word world: every outline has words of its own, all of which mean it and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from synthetic.world.outlines import OUTLINES

if TYPE_CHECKING:
    from jaxtyping import Int64

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "round"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "star": ("star", "pentagram", "twinkle"),
    "cross": ("cross", "plus", "crossing"),
    "heart": ("heart", "love", "valentine"),
    "ring": ("ring", "hoop", "donut"),
    "moon": ("moon", "crescent", "lune"),
    "arrow": ("arrow", "pointer", "dart"),
    "hourglass": ("hourglass", "sandglass", "timer"),
}
assert list(SYNONYMS) == list(OUTLINES)
NUM_SYNONYMS = 3


def words(outline: Int64[Tensor, " n"], synonym: Int64[Tensor, " n"]) -> list[str]:
    """Return the `synonym`-th word for each outline; 0 is its name."""
    table = list(SYNONYMS.values())
    return [table[i][k] for i, k in zip(outline.tolist(), synonym.tolist(), strict=True)]
