"""The concepts: each emoji with its English texts, its name in other languages and its place in Unicode's taxonomy.

The words are Unicode CLDR's (names and keywords, by way of emojibase), community shortcodes and emojilib's keywords.
The trap: words have licences too. OpenMoji's are share-alike and are not read.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench.builders.emoji.splits import family_of, split_of

LANGUAGES = ("de", "fr", "es", "ja", "zh", "ru")
SHORTCODES = ("emojibase", "github", "iamcal")
SKIN_AND_HAIR = 2  # emojibase's group of components, which are no emoji of their own


@dataclass(frozen=True)
class Concept:
    """One emoji. `texts` are distinct, the name first; `slugs` are the names that icon sets know it by, best first."""

    key: str
    emoji: str
    name: str
    texts: tuple[str, ...]
    group: str
    subgroup: str
    family: str
    split: str
    names: dict[str, str]
    slugs: tuple[tuple[str, ...], ...]


def key_of(hexcode: str) -> str:
    """Spell lower-case code points without the emoji presentation selector, on which vendors disagree."""
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")


def slug(text: str) -> str:
    """Spell a text as icon names are: ASCII words joined by hyphens."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.replace("&", " and ").replace("'", "")).strip("-")


def distinct_texts(candidates: Iterable[str]) -> tuple[str, ...]:
    """Keep the candidates in order, less repeats (case aside), emoticons, single letters and numbers."""
    texts: dict[str, str] = {}
    for candidate in candidates:
        text = " ".join(candidate.replace("_", " ").split()).strip("“”")
        if len(text) > 1 and re.search("[A-Za-z]", text):
            texts.setdefault(text.casefold(), text)
    return tuple(texts.values())


def load_concepts(modules: Path) -> list[Concept]:
    """Load every emoji of emojibase but skin tones and letters, by key. `modules` is a node_modules folder."""
    emojibase = modules / "emojibase-data"
    records = _records(emojibase, "en")
    labels = {language: _records(emojibase, language) for language in LANGUAGES}
    messages = json.loads((emojibase / "en" / "messages.json").read_text())
    groups, subgroups = ({g["order"]: g["key"] for g in messages[level]} for level in ("groups", "subgroups"))
    shortcodes = _shortcodes(emojibase)
    # from a file, not from Python's unicodedata: that one knows more emoji with every release of Python
    official_names = json.loads((emojibase / "meta" / "unicode-names.json").read_text())
    emojilib = {
        "-".join(f"{ord(c):04x}" for c in emoji if ord(c) != 0xFE0F): words
        for emoji, words in json.loads((modules / "emojilib/dist/emoji-en-US.json").read_text()).items()
    }
    concepts = []
    for key, record in sorted(records.items()):
        group, family = groups[record["group"]], family_of(key)
        codes = shortcodes.get(key, [])
        official = "" if "-" in key else official_names.get(key.upper(), "").lower()  # a sequence's lists its members
        spoken = [code.replace("-", " ") for code in codes if not re.search(r"^flag.?[a-z]{2}$|\d{3,}", code)]
        texts = [record["label"], official, *spoken, *record.get("tags", []), *emojilib.get(key, [])]
        concepts.append(
            Concept(
                key,
                record["emoji"],
                record["label"],
                distinct_texts(texts),
                group,
                subgroups[record["subgroup"]],
                family,
                split_of(family, group),
                {language: labels[language][key]["label"] for language in LANGUAGES},
                ((slug(record["label"]),), tuple(map(slug, codes)), (slug(official),)),
            )
        )
    return concepts


def _records(emojibase: Path, language: str) -> dict[str, dict]:
    records = json.loads((emojibase / language / "data.json").read_text())
    return {key_of(r["hexcode"]): r for r in records if r.get("group") not in (None, SKIN_AND_HAIR)}


def _shortcodes(emojibase: Path) -> dict[str, list[str]]:
    codes: dict[str, list[str]] = {}
    for source in SHORTCODES:
        for hexcode, words in json.loads((emojibase / f"en/shortcodes/{source}.json").read_text()).items():
            codes.setdefault(key_of(hexcode), []).extend([words] if isinstance(words, str) else words)
    return codes
