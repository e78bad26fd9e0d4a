"""Which drawings there are of each concept, and the match of icon names with concepts where a set gives names only.

The trap: a wrong match is a wrong label. A name counts only where it is one concept's alone, and exact spellings go
before looser ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from workbench.builders.emoji.sources import STYLES, IconSet, Style
from workbench.builders.emoji.texts import Concept, key_of

# FxEmojis' names that mean something else here: a bow to tie, a piano's keyboard, a face in sunglasses ...
FALSE_FRIENDS = {"fxemoji": {"bow", "down", "keyboard", "pout", "pouting", "sunglasses"}}


class Artwork(NamedTuple):
    """A drawing before rendering: the text of an SVG document, or a bitmap file."""

    concept: str
    style: Style
    source: str | Path


Names = dict[str, str]
"""{icon name: concept}, and the inverse"""


def unambiguous(pairs: Iterable[tuple[str, str]]) -> Names:
    """Give {name: concept} for the names that stand for one concept only."""
    owners: dict[str, set[str]] = {}
    for name, concept in pairs:
        owners.setdefault(name, set()).add(concept)
    return {name: next(iter(keys)) for name, keys in owners.items() if name and len(keys) == 1}


def match(names: Iterable[str], tiers: Iterable[Names]) -> Names:
    """Give {concept: icon name}: a name goes to the concept of the first tier that knows it, the surest name wins.

    Flags may also be spelt `flag-for-x` for CLDR's `flag-x`.
    """
    matched: Names = {}
    unknown = list(names)
    for concepts in tiers:
        names, unknown = unknown, []
        for name in names:
            concept = concepts.get(name) or concepts.get("flag-" + name.removeprefix("flag-for-"))
            if concept:
                matched.setdefault(concept, name)
            else:
                unknown.append(name)
    return matched


def _tiers(concepts: list[Concept], sets: dict[str, IconSet]) -> list[Names]:
    """Read icon names, surest first: sets that map code points, CLDR names, shortcodes, Unicode names; then the same
    with hyphens left out (FxEmojis writes `fishingpoleandfish`)."""
    known = {concept.key for concept in concepts}
    exact = [
        unambiguous((name, key_of(code)) for code, name in icons.characters.items() if key_of(code) in known)
        for icons in sets.values()
        if icons.characters
    ]
    exact += [
        unambiguous((name, concept.key) for concept in concepts for name in concept.slugs[tier]) for tier in range(3)
    ]
    return exact + [unambiguous((name.replace("-", ""), key) for name, key in names.items()) for names in exact]


def collect(modules: Path, concepts: list[Concept]) -> list[Artwork]:
    """Collect every drawing of every concept, by concept, then by style as in STYLES."""
    iconify = {style.name: IconSet(modules, style) for style in STYLES if style.package.startswith("@iconify-json/")}
    tiers = _tiers(concepts, iconify)
    found = {style.name: _find(modules, style, iconify.get(style.name), tiers) for style in STYLES}
    return [
        Artwork(concept.key, style, found[style.name][concept.key])
        for concept in concepts
        for style in STYLES
        if concept.key in found[style.name]
    ]


def _find(modules: Path, style: Style, icons: IconSet | None, tiers: list[Names]) -> dict[str, str | Path]:
    """Find {concept: artwork} in one style."""
    if style.name == "fluent-emoji-3d":
        return {key_of(file.stem): file for file in sorted((modules / style.package / "assets").glob("*.webp"))}
    if style.name == "openmoji-black":
        folder = modules / style.package / "black" / "svg"
        return {key_of(file.stem): file.read_text() for file in sorted(folder.glob("*.svg"))}
    assert icons
    if icons.characters:
        return {key_of(code): icons.svg(name) for code, name in icons.characters.items()}
    names = [name for name in icons.names() if name not in FALSE_FRIENDS.get(style.name, ())]
    return {concept: icons.svg(name) for concept, name in match(names, tiers).items()}
