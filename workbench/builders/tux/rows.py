"""Rows of the set: a stamp in one voice each, with its picture, its sentence, a second voice and a sound of the thing.

In training every voice of a stamp comes with the picture. In evaluation a picture and a sound stand once, in the first
row of their stamp: a search among copies would find eight of one picture before the next.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from workbench.builders.tux.splits import TRAINING_ONLY, VOICE
from workbench.builders.tux.stamps import OWN, Stamp

Row = dict[str, bytes | str | None]
FILES = ("train", "validation", "test", "voice", "test_voice")
"""training stamps; two splits of unseen ones; training stamps and test stamps in the voice that nobody hears before"""


def make_rows(
    stamps: Sequence[Stamp],
    splits: Sequence[str],
    nouns: Sequence[str],
    pictures: Mapping[str, bytes],
    left_out: Counter[str],
) -> dict[str, list[Row]]:
    """Make the rows of each file, in the order of the stamps and then of the languages.

    Args:
        stamps: all of them, sorted.
        splits: the split of each.
        nouns: the group of each.
        pictures: {name of a stamp: PNG}.
        left_out: gets what is in no row, by reason.
    """
    rows: dict[str, list[Row]] = {name: [] for name in FILES}
    concepts: dict[str, str] = {}
    # a file that was copied from one language to another is no new voice
    heard = {file for stamp in stamps for language, file in stamp.descriptions.items() if language != VOICE}
    for stamp, split, noun in zip(stamps, splits, nouns, strict=True):
        picture = pictures.get(stamp.name)
        effect = None if stamp.category == TRAINING_ONLY else stamp.effects.get(OWN)
        left_out["spoken names of letters and digits"] += len(stamp.effects) - (effect is not None)
        if sum(map(bool, (picture, stamp.sentence, stamp.descriptions, effect))) < 2:
            left_out["stamps of one modality"] += 1
            continue
        common: Row = {
            "text": stamp.sentence or None,
            "category": stamp.category,
            "noun": noun,
            "id": stamp.name,
            "concept": concepts.setdefault(_plain(stamp.sentence) or stamp.name, stamp.name),
        }
        shown: Row = {"image": picture, "effect": effect}
        voices = sorted(language for language in stamp.descriptions if language != VOICE)
        for number, row in enumerate(_spoken(stamp, voices)):
            rows[split].append({**common, **row, **(shown if split == "train" or number == 0 else {})})
        if VOICE in stamp.descriptions:
            known = _second(stamp, voices[0]) if voices else {}
            row = {**common, **shown, "speech": stamp.descriptions[VOICE], "language": VOICE, **known}
            if stamp.descriptions[VOICE] in heard:
                left_out[f"recordings in {VOICE} that another language has, too"] += 1
            elif split == "validation" or stamp.category == TRAINING_ONLY:
                left_out[f"recordings in {VOICE} of validation stamps, letters, digits and coins"] += 1
            else:
                rows["voice" if split == "train" else "test_voice"].append(row)
    return rows


def _spoken(stamp: Stamp, voices: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each voice, with the next voice beside it; one without speech where there is none."""
    if not voices:
        yield {}
    for number, language in enumerate(voices):
        other = voices[(number + 1) % len(voices)]
        yield {
            "speech": stamp.descriptions[language],
            "language": language,
            **(_second(stamp, other) if other != language else {}),
        }


def _second(stamp: Stamp, language: str) -> Row:
    return {"other": stamp.descriptions[language], "other_language": language}


def _plain(sentence: str) -> str:
    """Write a sentence in small letters, without marks and articles: "A lion!" and "The lion." say one thing."""
    return " ".join(word for word in re.findall(r"\w+", sentence.lower()) if word not in ("a", "an", "the", "some"))
