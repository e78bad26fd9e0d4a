"""Captions as they lie in files, and what of them can be learnt from.

The trap: whatever becomes a text is trained on, without a word; so what cannot be read for certain is refused, and
nothing is replaced: no question marks for bytes of another encoding, no line breaks that an editor would not show.
"""

from __future__ import annotations

import ast
import codecs
import io
import json
import re
import tokenize
import warnings
from collections.abc import Iterable, Sequence

from workbench.errors import shorten
from workbench.loading.cells import is_empty

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""(mark at the beginning of a file, its encoding)"""
LINE_END = re.compile(r"\r\n|\r|\n")
"""what editors show as the end of a line; other separators of Unicode stand within a sentence"""
NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
"""of a class; -1 stands for none, and some programs write all numbers with a point"""
ESCAPES = re.compile("[\x0e\x0f\x1b]")
"""what ISO-2022 switches alphabets by, in bytes that are UTF-8 all the same"""
LIST = re.compile(
    r"""\[\s*(["']|(nan|None|null)\s*,).*(["']|,\s*(nan|None|null)),?\s*\]|\[\s*(["'])[^\]]*\5\s*,[^\]]*""", re.S | re.I
)
"""what looks like a list of texts, whole or cut off"""


def decode_text(content: bytes) -> str:
    """Decode the text of a file: UTF-8, or what its mark says. Raises ValueError where the encoding is not certain."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise ValueError(f"not {encoding}, as its mark says ({error.reason} at {error.start})") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(error)) from None


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say which byte is none of UTF-8's, and what to do."""
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}): save it as UTF-8"


def load_json(content: bytes) -> object:
    """Parse JSON. Raises ValueError, for a key that is there twice, too: of its two values one would vanish."""
    try:
        return json.loads(decode_text(content), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{shorten(twice, 80)}' is there twice: give one key a list of both values")
    return found


def parse_lines(content: bytes) -> list[str]:
    """Read the lines of a text. Raises ValueError."""
    return LINE_END.split(decode_text(content))


def clean(captions: Sequence[object]) -> list[str]:
    """Keep the captions that say something. Raises ValueError when one is mangled, or when there are other things
    than texts alone."""
    texts: list[str] = []
    for text in captions:
        if isinstance(text, str):
            texts += (said for item in unlist(text) if (said := item.strip()))
    for text in texts:
        if "\0" in text:
            raise ValueError("a caption holds NUL characters, as UTF-16 without its mark does: save it as UTF-8")
        if found := ESCAPES.search(text):
            raise ValueError(f"a caption holds {found[0]!r}, as ISO-2022-JP does: save it as UTF-8")
        if not whole(text):
            raise ValueError("a caption holds half a character (a lone surrogate): write it anew")
    if not texts:
        others = [text for text in captions if not is_empty(text)]
        if others:
            raise ValueError(f"no caption, but {type(others[0]).__name__} {shorten(repr(others[0]), 60)}")
    return texts


def whole(text: str) -> bool:
    """Say whether a text has no half characters: JSON may spell one, and no file can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unlist(text: str) -> list[str]:
    """Read a list of texts that is written as one text, as JSON or as Python; any other text is itself.

    Raises ValueError for a list or a block that holds anything else, and for what looks like a list and is none.
    """
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "()", "{}") and not LIST.fullmatch(text):
        return [text]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _literal(text)
    if isinstance(found, list):
        items = [item for item in found if item is not None]
        if all(isinstance(item, str) for item in items):
            return items
        if len(found) > 1 or not isinstance(found[0], int | float):  # '[2026]' is a text
            other = next(type(item).__name__ for item in items if not isinstance(item, str))
            raise ValueError(f"a caption looks like a list of texts, and holds {other}: {shorten(text, 60)}")
    if isinstance(found, dict) and found:
        raise ValueError(f"a caption is a block of JSON, not a text: {shorten(text, 60)}: write the text alone")
    if LIST.fullmatch(text):
        raise ValueError(f"a caption looks like a list, and is neither JSON's nor Python's: {shorten(text, 60)}")
    return [text]


def _literal(text: str) -> object:
    """Read a list, a tuple of several or a block as Python writes them; None for anything else."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a backslash before any letter
            found = ast.literal_eval(text)
            words = sum(t.type == tokenize.STRING for t in tokenize.generate_tokens(io.StringIO(text).readline))
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    if isinstance(found, set) and all(isinstance(item, str) for item in found):
        found = sorted(found)
    if isinstance(found, dict):
        return found
    if not isinstance(found, list | tuple) or (isinstance(found, tuple) and len(found) < 2):
        return None
    # Python joins texts that stand side by side, as in numpy's way to print an array
    return list(found) if words == sum(isinstance(item, str) for item in found) else None


def flat(cells: Iterable[object]) -> list[object]:
    """List the captions of each cell: a cell is one, or a list of them."""
    return [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
