"""Which concepts are held out, and which drawings cannot be told apart.

The trap is leakage: a woman, a man and a person running are one picture to a model, so a whole family goes to one split;
the split is a hash of the family, so a concept that Unicode adds later moves no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Sequence

VALIDATION, TEST = 0.08, 0.12  # shares of families

# gender signs, joiners, presentation selectors and the arrow of direction say nothing of what is drawn
MODIFIER = re.compile(r"200d|2640|2642|27a1|fe0f|1f3f[b-f]")
MAN_WOMAN_BOY_GIRL = {"1f468": "1f9d1", "1f469": "1f9d1", "1f466": "1f9d2", "1f467": "1f9d2"}
CLOCK = re.compile(r"1f55[0-9a-f]|1f56[0-7]")
# pairs and variants that Unicode encodes under unrelated code points
SAME_FAMILY = {
    "1f46a": "family",
    **dict.fromkeys(("1f46b", "1f46c", "1f46d"), "1f9d1-1f91d-1f9d1"),  # holding hands
    "1f48f": "1f9d1-2764-1f48b-1f9d1",  # kiss
    "1f491": "1f9d1-2764-1f9d1",  # couple with heart
    **dict.fromkeys(("1f474", "1f475"), "1f9d3"),  # older person
    "1f934": "1f478",  # prince, princess
    **dict.fromkeys(("1f936", "1f9d1-1f384"), "1f385"),  # Santa Claus
    **dict.fromkeys(("1fac3", "1fac4"), "1f930"),  # pregnant
    "1f483": "1f57a",  # dancing
    "1f50e": "1f50d",  # magnifying glass, tilted left or right
}


def family_of(key: str) -> str:
    """The family of a concept: its code points without gender, skin and direction; all clocks and families are one."""
    points = [MAN_WOMAN_BOY_GIRL.get(p, p) for p in key.split("-") if not MODIFIER.fullmatch(p)] or [key]
    if len(points) > 2 and set(points) <= {"1f9d1", "1f9d2"}:
        return "family"
    if CLOCK.fullmatch(points[0]):
        return "clock"
    family = "-".join(points)
    return SAME_FAMILY.get(family, family)


def split_of(family: str, group: str) -> str:
    """`train`, `validation` or `test`. Flags stay in train: nobody can guess an unseen flag."""
    digest = hashlib.sha1(f"emoji-split-1{family}".encode()).hexdigest()
    share = int(digest[:12], 16) / 16**12
    if group == "flags" or share >= TEST + VALIDATION:
        return "train"
    return "test" if share < TEST else "validation"


def distinguishable(drawings: Sequence[tuple[str, Hashable]]) -> list[bool]:
    """Which of the drawings, (concept, picture) each, to keep.

    A picture that stands for two concepts (hearts of any colour in a monochrome style) is dropped everywhere; a picture
    that one concept has twice is kept once.
    """
    owners: dict[Hashable, set[str]] = {}
    for concept, picture in drawings:
        owners.setdefault(picture, set()).add(concept)
    seen: set[Hashable] = set()
    keep = []
    for _, picture in drawings:
        keep.append(len(owners[picture]) == 1 and picture not in seen)
        seen.add(picture)
    return keep
