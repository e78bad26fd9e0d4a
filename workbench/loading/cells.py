"""Cells of tables that hold a file: its bytes, base64, a path, or something that is none of these.

The trap: a path that a person sees and a path that the system knows differ by a backslash from Windows, or by how an
accent is written; both are found.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from workbench.errors import shorten
from workbench.loading.paths import read_bytes

ADDRESS = re.compile(r"(https?|s3|gs|ftp|hdfs)://")
BASE64 = re.compile(r"(?:data:image/[\w.+-]+;base64,)?\s*([A-Za-z0-9+/_\s-]{40,}={0,2})\s*")
HEXADECIMAL = re.compile(r"(0x|\\x)?[0-9a-fA-F]{100}")
LONGEST = 255
"""bytes of the name of a file"""
NOTHING = "a file of 0 bytes"
BEGINNINGS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")
"""how encoded pictures begin: nobody's path does, in base64"""


def is_empty(cell: object) -> bool:
    """Say whether a cell holds nothing: then its sample lacks the modality. NaN is what pandas writes there."""
    if isinstance(cell, dict):
        return all(map(is_empty, cell.values()))
    if isinstance(cell, str):
        return not cell.strip()
    if isinstance(cell, float):
        return cell != cell
    return cell is None or (isinstance(cell, list | bytes) and not cell)


def first_filled(cells: Sequence[object]) -> object:
    """Find the first cell that is not empty, or None."""
    return next((cell for cell in cells if not is_empty(cell)), None)


def first_file(cells: Sequence[object]) -> object:
    """Find the first cell that is not empty, or None. Raises ValueError for a file of 0 bytes: whoever has none writes
    none, and an empty one is what a copy that failed has left."""
    for cell in cells:
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(content, bytes) and not content:
            raise ValueError(NOTHING)
        if not is_empty(cell):
            return cell
    return None


def lookup(row: Mapping[str, object], key: str) -> object:
    """Find what a row has under a key, or under a dotted one in the blocks that it holds; None where there is none."""
    if key in row:
        return row[key]
    found: object = row
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def read_encoded(cell: object, root: str | Path, what: str) -> bytes:
    """Read the file that a cell holds: bytes, {bytes, path}, or a path; of a picture base64, too.

    Args:
        cell: it, which is not empty.
        root: folder that relative paths start from.
        what: what it should hold, for messages: picture, sound, .npy.

    Raises OSError and ValueError.
    """
    if isinstance(cell, dict):
        content = cell.get("bytes") or cell.get("path")
        if content is None:
            raise ValueError(
                f"no {what}, but a block of {', '.join(map(str, cell))}: write {{bytes: ...}} or {{path: ...}}"
            )
        cell = content
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        raise ValueError(f"no {what}, but {type(cell).__name__}")
    if what == "picture" and (decoded := from_base64(cell)) is not None:
        return decoded
    if ADDRESS.match(cell):
        raise ValueError(f"{shorten(cell, 80)} is an address: fetch the {what}s first, as with img2dataset")
    if not (content := _read_file(cell, root)):
        raise ValueError(NOTHING)
    return content


def from_base64(text: str) -> bytes | None:
    """Decode base64 if it holds a picture; None for a path."""
    found = BASE64.fullmatch(text) if len(text) > 40 else None
    if not found:
        return None
    try:
        content = base64.b64decode(re.sub(r"\s", "", found[1]).replace("-", "+").replace("_", "/") + "==")
    except binascii.Error:
        return None
    return content if content.startswith(BEGINNINGS) else None


def _read_file(path: str, root: str | Path) -> bytes:
    if "\0" in path or max(map(len, os.fsencode(path).split(b"/"))) > LONGEST:
        hexadecimal = "hexadecimal" if HEXADECIMAL.match(path) else ""
        kind = hexadecimal or ("bytes as Python prints them" if path[:2] in ("b'", 'b"') else "")
        remedy = f", but {kind}: write it as base64, or to a file" if kind else ""
        raise ValueError(f"no path and no picture in base64{remedy} ({shorten(path, 40)!r})")
    try:
        return read_bytes(os.path.join(root, path))  # noqa: PTH118  # a cell may hold what is no path
    except FileNotFoundError:
        for other in _spellings(path):
            if os.path.exists(found := os.path.join(root, other)):  # noqa: PTH110, PTH118
                return read_bytes(found)
        if (below := _one_level_below(path, root)) is not None:
            # as the system's own words begin; another split may have a file of this name, so it is not taken
            said = f"[Errno 2] No such file or directory: '{path}'"
            raise FileNotFoundError(f"{said}; there is one in '{below}': is that data.root?") from None
        raise


def _spellings(path: str) -> Iterator[str]:
    if path.startswith("file://"):
        yield unquote(path.removeprefix("file://"))
    if path.startswith("~"):
        yield os.path.expanduser(path)  # noqa: PTH111
    if "\\" in path:
        yield path.replace("\\", "/")
    for form in ("NFC", "NFD"):
        if (other := unicodedata.normalize(form, path)) != path:
            yield other


def _one_level_below(path: str, root: str | Path) -> str | None:
    """Name a folder beside the list that has such a file: a hint, as another split may have one of this name, too."""
    return next((folder for folder in _folders(str(root)) if os.path.exists(os.path.join(folder, path))), None)  # noqa: PTH110, PTH118


@cache
def _folders(root: str) -> list[str]:
    try:
        return sorted(entry.path for entry in os.scandir(root or ".") if entry.is_dir())
    except OSError:
        return []
