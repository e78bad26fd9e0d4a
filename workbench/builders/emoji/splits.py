"""Which concepts are held out, and which drawings cannot be told apart.

The trap is leakage: a woman, a man and a person running are one picture to a model, and so is an arrow turned round, so
a whole family goes to one split. The split is a hash of the family: a concept that Unicode adds later moves no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Sequence

VALIDATION, TEST = 0.08, 0.12  # shares of families

# gender signs, joiners, presentation selectors and the arrow of direction say nothing of what is drawn
MODIFIER = re.compile(r"200d|2640|2642|27a1|fe0f|1f3f[b-f]")
MAN_WOMAN_BOY_GIRL = {"1f468": "1f9d1", "1f469": "1f9d1", "1f466": "1f9d2", "1f467": "1f9d2"}

# one drawing turned, mirrored, resized or of another gender, where Unicode gives each variant a code point of its own
VARIANTS = {
    "family": "1f46a",
    "holding hands": "1f46b 1f46c 1f46d 1f9d1-1f91d-1f9d1",
    "kiss": "1f48f 1f9d1-2764-1f48b-1f9d1",
    "couple with heart": "1f491 1f9d1-2764-1f9d1",
    "older person": "1f474 1f475 1f9d3",
    "prince": "1f934 1f478",
    "Santa Claus": "1f385 1f936 1f9d1-1f384",
    "pregnant": "1f930 1fac3 1fac4",
    "dancer": "1f483 1f57a",
    "restroom": "1f6b9 1f6ba",
    "clock": " ".join(f"{point:x}" for point in range(0x1F550, 0x1F568)),
    "disc": "1f311 1f312 1f313 1f314 1f315 1f316 1f317 1f318 "  # moons, and the circles that look like them
    "26aa 26ab 1f534 1f535 1f7e0 1f7e1 1f7e2 1f7e3 1f7e4",
    "moon face": "1f31b 1f31c",
    "smile": "1f642 1f643",
    "thumb": "1f44d 1f44e",
    "fist": "1f91b 1f91c",
    "pointing hand": "1f446 1f447 1f448 1f449",
    "hand": "1f91a 270b 1faf1 1faf2",
    "palm": "1faf3 1faf4",
    "pushing hand": "1faf7 1faf8",
    "snowman": "2603 26c4",
    "speech bubble": "1f4ac 1f5e8",
    "pen": "1f58b 2712",
    "magnifying glass": "1f50d 1f50e",
    "traffic light": "1f6a5 1f6a6",
    "chart": "1f4c8 1f4c9",
    "arrow": "27a1 2b05 2b06 2b07 2196 2197 2198 2199",
    "two-way arrow": "2194 2195",
    "curving arrow": "21a9 21aa 2934 2935",
    "arrow button": "23e9 23ea 23eb 23ec 25b6 25c0 1f53c 1f53d",
    "track button": "23ed 23ee",
    "triangle": "1f53a 1f53b",
    "diamond": "1f536 1f537 1f538 1f539",
    "square": "25aa 25ab 25fb 25fc 25fd 25fe 2b1b 2b1c",
    "six-pointed star": "1f52f 2721",
}
FAMILY = {member: family for family, members in VARIANTS.items() for member in members.split()}


def family_of(key: str) -> str:
    """Name the family of a concept: its code points without gender, skin and direction, or the name in VARIANTS."""
    points = [MAN_WOMAN_BOY_GIRL.get(p, p) for p in key.split("-") if not MODIFIER.fullmatch(p)] or [key]
    if len(points) > 2 and set(points) <= {"1f9d1", "1f9d2"}:
        return "family"
    family = "-".join(points)
    return FAMILY.get(family, family)


def split_of(family: str, group: str) -> str:
    """Name the split: train, validation or test. Flags stay in train: nobody can guess an unseen flag."""
    digest = hashlib.sha1(f"emoji-split-1{family}".encode()).hexdigest()
    share = int(digest[:12], 16) / 16**12
    if group == "flags" or share >= TEST + VALIDATION:
        return "train"
    return "test" if share < TEST else "validation"


def distinguishable(drawings: Sequence[tuple[str, Hashable]]) -> list[bool]:
    """Say which of the drawings, (concept, picture) each, to keep.

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
