"""What members of tars, or files side by side, say: a file itself, lines of a text, a class, a place in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import shorten
from workbench.loading.captions import NUMBER, decode_text, load_json, parse_lines
from workbench.loading.cells import lookup
from workbench.loading.choosing import Wanted
from workbench.loading.fields import Fields, TextField
from workbench.loading.labels import read_names
from workbench.loading.table import ENOUGH

CLASSES = "classnames.txt"
"""as CLIP_benchmark calls it, beside the tars or one folder above"""


@dataclass(frozen=True)
class MemberReader:
    """Reads the cells that the content of a member holds.

    Args:
        key: where they stand, if it is JSON: a key, or a dotted one.
        lines: it is a text, of which each line is a cell.
        classes: names of the classes whose numbers it holds; none where nobody knows them; None: it holds no classes.
        optional: what its JSON lacks is only missing.
    """

    key: str | None = None
    lines: bool = False
    classes: Sequence[str] | None = None
    optional: bool = False

    def __call__(self, content: bytes) -> Sequence[object]:
        """Read them. Raises ValueError."""
        if self.key is not None:
            return self._find(load_json(content), self.key)
        if self.classes is not None:
            return [self._name(content)]
        return parse_lines(content) if self.lines else [content]

    def _find(self, found: object, key: str) -> Sequence[object]:
        value = lookup(found, key) if isinstance(found, dict) else None
        if value is None and not self.optional and not (isinstance(found, dict) and key in found):
            keys = shorten(", ".join(map(str, found))) if isinstance(found, dict) else "no keys"
            raise ValueError(f"its .json has no '{key}' (it has: {keys})")
        return value if self.lines and isinstance(value, list) else [value]

    def _name(self, content: bytes) -> str:
        assert self.classes is not None
        text = decode_text(content).strip()
        if not NUMBER.fullmatch(text):  # some tars have the name itself
            return text
        if not self.classes:
            raise ValueError(
                f"it is the number of a class ({text}): name a file, a name a line, as the field's `classes`"
            )
        number = int(float(text))
        if not 0 <= number < len(self.classes):
            raise ValueError(f"class {text} is none of the {len(self.classes)} that have a name, from 0 on")
        return self.classes[number]


Readers = Mapping[str, Sequence[tuple[int, MemberReader]]]
"""{column: for each of its members, the slot that it is in and what reads it}"""


def make_readers(wanted: Wanted, fields: Fields, folder: Path) -> Readers:
    """Make the readers of all columns. `folder` is where a file of class names is looked for that no field names.

    Raises OSError where the file that one names is not there.
    """
    readers: dict[str, list[tuple[int, MemberReader]]] = {}
    for column, places in wanted.columns.items():
        field = fields.get(column)
        optional = len(fields) > ENOUGH or field is None
        readers[column] = [
            (slot, _reader(field, wanted.slots[slot].endings, key, optional, folder)) for slot, key in places
        ]
    return readers


def _reader(field: object, endings: Sequence[str], key: str | None, optional: bool, folder: Path) -> MemberReader:
    if not isinstance(field, TextField):
        return MemberReader(key, optional=optional)
    if key is not None or (field.classes is None and "cls" not in endings):
        return MemberReader(key, lines=True, optional=optional)
    beside = (folder / CLASSES, folder.parent / CLASSES)
    file = field.classes or next((file for file in beside if file.is_file()), None)
    return MemberReader(classes=read_names(file) if file else ())
