"""Files from patterns: globs, braces and lists of them.

The trap: a glob that matches less than it should says nothing; braces name every file, so those that are not there
can be named, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from glob import glob, has_magic
from itertools import chain
from pathlib import Path

MAX_BYTES = 2**28
"""of an encoded picture or a text; what claims more is a corrupt size, which must not fill the memory"""

Paths = str | tuple[str, ...]
"""a pattern, or a list of them: 'cc12m/{0000..1242}.tar', 'cc3m/*.tar'"""


def expand(patterns: Paths) -> tuple[list[str], list[str]]:
    """(the files there are, what was named and is not there). Globs in sorted order, none twice."""
    found: list[str] = []
    absent: list[str] = []
    for name in chain.from_iterable(map(braces, as_tuple(patterns))):
        name = str(Path(name).expanduser())
        matches = sorted(glob(name)) if has_magic(name) else [name] * Path(name).exists()
        found += matches
        absent += [] if matches else [name]
    return list(dict.fromkeys(found)), absent


def missing(patterns: Paths, what: str, example: str) -> str | None:
    """One line when a named file is not there, or nothing is: which, and how to point to others; else None."""
    found, absent = expand(patterns)
    if not found:
        return f"no {what} matches {describe(patterns)}: point to yours {example}"
    if absent:
        return f"{len(absent)} of the {what}s of {describe(patterns)} are not there, the first is {absent[0]}"
    return None


def as_tuple(one_or_many: str | Sequence[str]) -> tuple[str, ...]:
    """A word, or words."""
    return (one_or_many,) if isinstance(one_or_many, str) else tuple(one_or_many)


def braces(pattern: str) -> list[str]:
    """'{00..02}.tar' -> 00.tar, 01.tar, 02.tar; '{a,b}.tar' -> a.tar, b.tar; any number of them in a pattern."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        return [pattern]
    first, last, words = match.groups()
    choices = words.split(",") if words else [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    tails = braces(pattern[match.end() :])
    return [pattern[: match.start()] + choice + tail for choice in choices for tail in tails]


def describe(patterns: Paths) -> str:
    """As a person wrote them."""
    return ", ".join(f"'{p}'" for p in as_tuple(patterns))


def read_bytes(path: str | os.PathLike[str], offset: int = 0, size: int | None = None) -> bytes:
    """A file, or a part of it. Raises OSError, and ValueError when it is larger than MAX_BYTES.

    It is opened each time: a handle that worker processes share would share its position, too.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size if size is None else size
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes are more than the {MAX_BYTES} that a sample may have")
        content = os.pread(handle, size, offset)
    finally:
        os.close(handle)
    if len(content) < size:
        raise OSError(f"{path} has become shorter than when its members were listed")
    return content
