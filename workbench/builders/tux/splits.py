"""Which stamps are held out, and which voice.

The trap is leakage. Three stamps of apples are one thing, two stamps may share a recording, and most languages of the
package are spoken by one person: so whole groups of stamps go to one split, and one language is in no training row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from workbench.builders.tux.nouns import head_noun
from workbench.builders.tux.stamps import Stamp

VOICE = "es"
"""the language that nobody hears in training"""
TRAINING_ONLY = "symbols"
"""the category of letters, digits, coins and notes: nobody can guess an unseen letter"""
VALIDATION, TEST = 0.09, 0.2
"""shares of the groups"""


def group_stamps(stamps: Sequence[Stamp]) -> list[str]:
    """Name the group of each stamp: all that share a head noun, a sentence, a sound or a picture are in one.

    A group is named by the first of its head nouns in alphabetical order.
    """
    parents: dict[object, object] = {}

    def root(key: object) -> object:
        while (above := parents.setdefault(key, key)) != key:
            key = above
        return key

    nouns = [head_noun(stamp.sentence) or stamp.name for stamp in stamps]
    for stamp, noun in zip(stamps, nouns, strict=True):
        sounds = (*stamp.descriptions.values(), *stamp.effects.values())
        for key in (stamp.sentence, *sounds, *stamp.pictures.values()):
            if key:
                parents[root(("same", key))] = root(noun)
    names: dict[object, str] = {}
    for noun in sorted(set(nouns)):
        names.setdefault(root(noun), noun)
    return [names[root(noun)] for noun in nouns]


def split_of(group: str, category: str) -> str:
    """Name the split of a group: train, validation or test, by a hash of its name."""
    if category == TRAINING_ONLY:
        return "train"
    share = int(hashlib.sha1(f"tux-split-1 {group}".encode()).hexdigest()[:12], 16) / 16**12
    if share >= TEST + VALIDATION:
        return "train"
    return "test" if share < TEST else "validation"


def split_stamps(stamps: Sequence[Stamp]) -> list[str]:
    """Name the split of each stamp. A group that holds a letter, a digit or a coin is trained on as a whole."""
    groups = group_stamps(stamps)
    fixed = {group for stamp, group in zip(stamps, groups, strict=True) if stamp.category == TRAINING_ONLY}
    return [split_of(group, TRAINING_ONLY if group in fixed else "") for group in groups]
