"""A first look at a stranger's data: which fields it has, of which kinds, what repeats and what is missing.

The trap: what a column is, is a guess. It is written into the recipe that comes of it, where a person sees it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import nn

from workbench.inspection.columns import Column, order, tell_columns, tell_endings, tell_splits
from workbench.inspection.look import Inspection, Listing, chosen, inspect, listing
from workbench.inspection.open_data import PACKAGED, find
from workbench.inspection.tallies import Seen
from workbench.loading.bad_samples import MAX_BAD
from workbench.loading.fields import KINDS, RESERVED
from workbench.loading.samples import Samples
from workbench.recipe.component import validate
from workbench.types import Skipped

LOOKED = 1000
"""samples that are decoded, at most: random ones, the same every time"""
LEAST = 8
"""samples without which there is nothing to train and to hold out"""
HELD_OUT = 10
"""per cent of the ids, where the data has no validation split of its own"""
SHARED = 0.05
"""share of texts that several samples have, from which equal texts are made one id"""
FEW_IDS = 40
"""ids without which a tenth of them is no evaluation"""


@dataclass(frozen=True)
class Facts:
    """What was seen of the data."""

    block: dict[str, Any]
    """the data block of the recipe"""
    kinds: dict[str, str]
    """{field: its kind}"""
    found: Inspection
    scripts: dict[str, float]
    """{script: share of the letters}, as LATIN; the most frequent first"""
    twice: int
    """pictures that another sample has, too, pixel by pixel"""
    notes: list[str] = field(default_factory=list)
    """what a person should know of the guess"""

    @property
    def samples(self) -> int:
        """Count the usable samples, about: those that were looked at stand for all."""
        return round(self.found.pairs * self.found.usable / max(1, self.found.inspected))

    def together(self, names: Collection[str]) -> int:
        """Count the samples among those looked at that have all of these fields."""
        return sum(n for there, n in self.found.combinations.items() if set(names) <= set(there.split("+")))


class _Watched:
    """A listing that also counts scripts and pictures that come again."""

    def __init__(self, listed: Listing) -> None:
        self._listed = listed
        self.letters: Counter[str] = Counter()
        self.pictures: Counter[int] = Counter()
        self.left_out: Sequence[Skipped] = listed.left_out
        self.beside: Mapping[str, int] = listed.beside
        self.mixed, self.files, self.fields = listed.mixed, listed.files, listed.fields

    def __len__(self) -> int:
        return len(self._listed)

    def see(self, index: int) -> Seen:
        seen = self._listed.see(index)
        for text in seen.captions[:5]:
            self.letters.update(filter(None, map(script_of, text[:500])))
        if isinstance(seen.image, Image.Image):
            self.pictures[hash((seen.image.size, seen.image.tobytes()))] += 1
        return seen


def script_of(letter: str) -> str | None:
    """Name the script of a letter, as LATIN or CJK; None of what is no letter."""
    if not letter.isalpha():
        return None
    return unicodedata.name(letter, "UNKNOWN").partition(" ")[0]


def look_at(path: str, source: str | None = None) -> Facts:
    """Look at data of which nothing is known. Raises ValueError where nothing is there that can be trained on."""
    found = find(path) if source is None else None
    block: dict[str, Any] = dict(found.block) if found else {"name": source, "path": path}
    notes = [found.note] if found and found.note else []
    if block["name"] == PACKAGED:
        raise ValueError(f"{PACKAGED} has recipes of its own: wb ls recipe, as wb pretrain emoji_clip.yaml")
    columns = tell_columns(block)
    if columns is None:
        _settle_endings(block)
    else:
        _settle_columns(block, columns, path, notes)
    _hold_out(block, found.others if found else {}, columns or ())
    facts = _see(block, path, notes)
    _settle_ids(facts, columns or ())
    bad = len(facts.found.bad) / max(1, facts.found.inspected)
    if bad > MAX_BAD / 2:
        block["max_bad"] = float(f"{min(2 * bad, 0.9):.2g}")
        notes.append(f"{bad:.1%} of the samples cannot be used, as {facts.found.bad[0]}: max_bad allows for them")
    return facts


def _see(block: dict[str, Any], path: str, notes: list[str]) -> Facts:
    """Decode samples, and leave out fields that none of them has. Raises ValueError where too little is there."""
    data = validate("data", block).build()
    assert isinstance(data, Samples)
    watched = _Watched(listing(data))
    if watched.mixed:
        raise ValueError(watched.mixed)
    seen = inspect(watched, chosen(len(watched), LOOKED))
    if not seen.usable:
        first = f"; the first is {seen.bad[0]}" if seen.bad else ""
        raise ValueError(f"{path} holds no sample that can be used{first}")
    kinds = {name: modality.kind for name, modality in data.modalities.items() if seen.fields.get(name)}
    if len(kinds) < 2:
        have = ", ".join(kinds) or "none"
        raise ValueError(f"{path} has one field with something in it ({have}), and a training contrasts two")
    for name in [name for name in block.get("fields", {}) if name not in kinds]:
        notes.append(f"field {name} is empty in all samples that were looked at, and is left out")
        del block["fields"][name]
    letters = sum(watched.letters.values())
    scripts = {name: n / letters for name, n in watched.letters.most_common(5)} if letters else {}
    facts = Facts(block, kinds, seen, scripts, sum(n for n in watched.pictures.values() if n > 1), notes)
    if facts.samples < LEAST:
        raise ValueError(f"{path} has {facts.samples} usable samples: {LEAST} are needed to train and to hold some out")
    return facts


def _settle_columns(block: dict[str, Any], columns: Sequence[Column], path: str, notes: list[str]) -> None:
    """Write fields and labels for the columns of a table. Raises ValueError where no two fields are among them."""
    fields: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    numbers = [column.key for column in columns if column.role == "number"]
    for column in order(columns):
        if column.role in KINDS:
            plain = column.role in ("image", "text") and column.role not in fields
            name = column.role if plain else _name(column.key, fields)
            fields[name] = {"from": column.key} if name == column.role else {"kind": column.role, "from": column.key}
    classes = next((column.key for column in columns if column.role == "class"), None)
    if list(fields) == ["image"] and classes:
        fields["text"] = {"from": classes}
        notes.append(
            f"the names of the classes in {classes} are the texts: those of one class are alike, and stand in "
            "many samples of a batch"
        )
    if len(fields) < 2 and len(numbers) > 1:  # readings of one thing, and no labels
        fields[_name("numbers", fields)] = {"kind": "vector", "from": numbers}
        notes.append(f"the columns {', '.join(numbers)} are taken for one row of numbers")
        numbers = []
    for column in columns:
        if column.role in ("class", "classes") or column.key in numbers:
            name = _name(column.key, {*fields, *labels})
            more = {"number": True} if column.key in numbers else {"many": True} if column.role == "classes" else {}
            labels[name] = {"from": column.key, **more}
    if len(fields) < 2:
        told = ", ".join(f"{column.key} ({column.role})" for column in columns)
        found = f"its columns seem to be {told}" if told else "no column has anything in the first rows"
        raise ValueError(
            f"{path}: a training contrasts two fields, as pictures and texts, and {found}; if this is wrong, write "
            "data.fields by hand, as docs/data.md shows"
        )
    block["fields"] = fields
    if labels:
        block["labels"] = labels


def _settle_endings(block: dict[str, Any]) -> None:
    """Write fields for files side by side, or members of tars, where there is more than pictures and texts."""
    there = tell_endings(block)
    fields = {kind: {} for kind in ("image", "text", "audio", "vector") if kind in there}
    if len(fields) >= 2 and set(fields) != {"image", "text"}:
        block["fields"] = fields
    if "label" in there:
        block["labels"] = {"label": {"from": "cls"}}


def _name(key: str, taken: Collection[str]) -> str:
    """Make a word of a column's name that can name a field."""
    name = re.sub(r"\W+", "_", key).strip("_") or "field"
    name = f"_{name}" if name[0].isdigit() else name
    while name in taken or name in RESERVED or hasattr(nn.ModuleDict(), name):
        name += "_"
    return name


def _hold_out(block: dict[str, Any], others: Mapping[str, list[str]], columns: Sequence[Column]) -> None:
    """Hold out the data's own validation split, else its test split, else a share of the ids."""
    named = tell_splits(block, next((column.key for column in columns if column.role == "split"), None))
    held_out = named.get("validation", named.get("test"))
    if "train" in named and block["name"] == "hf":
        block |= {"split": "train", "validation": held_out or f"{HELD_OUT} %"}
    elif "train" in named:
        (key,) = (column.key for column in columns if column.role == "split")
        block |= {"where": {key: named["train"]}}
        block |= {"validation_where": {key: held_out}} if held_out else {"validation": f"{HELD_OUT} %"}
    elif files := others.get("validation") or others.get("test"):
        block["validation"] = files if len(files) > 1 else files[0]
    else:
        block["validation"] = f"{HELD_OUT} %"


def _settle_ids(facts: Facts, columns: Sequence[Column]) -> None:
    """Make equal texts one id where many are, so that they are no wrong answers of each other."""
    shared = facts.found.captions["shared"]
    texts = [column for column in columns if column.role == "text"]
    if shared < SHARED or not texts:
        return
    text = next(order(texts))
    if text.distinct >= FEW_IDS and text.filled:
        facts.block["id"] = text.key
        facts.notes.append(
            f"{shared:.0%} of the texts are those of another sample, too: id: {text.key} makes samples of one text "
            "positives of each other, and keeps them in one split"
        )
    else:
        facts.notes.append(
            f"{shared:.0%} of the texts are those of another sample, too, and each other's wrong answers: no loss can "
            "fall to zero (wb check --overfit says how far)"
        )
