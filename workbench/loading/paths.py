"""Files from patterns: globs, braces and lists of them; the files of a folder; splits that names tell apart.

The trap: a glob that matches less than it should says nothing, and one that matches more mixes test data into training
data; braces name every file, so those that are not there can be named, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from glob import escape, glob, has_magic
from pathlib import Path

MAX_BYTES = 2**28
"""of an encoded picture or a text; what claims more is a corrupt size, which must not fill the memory"""
MOST_NAMES = 10**6
"""that the braces of a pattern may stand for"""

Paths = str | tuple[str, ...]
"""a pattern, or a list of them: 'cc12m/{0000..1242}.tar', 'cc3m/*.tar'"""

SPLITS = {
    "train": ("train", "training", "trainval"),
    "validation": ("validation", "valid", "val", "dev", "minival", "heldout", "holdout"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""{split: what files and folders of it are called}, as Hugging Face's `datasets` reads names"""
_WORDS = "|".join(word for words in SPLITS.values() for word in words)
_SPLIT = re.compile(rf"(?<![a-z])({_WORDS})(?:set|data|split|images|imgs)?(?![a-z])")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
"""where a word begins in a name like TrainImages"""


UNSEEN = ("__MACOSX", "@eaDir")
"""folders that macOS and network drives make beside what people put there"""


def expand(patterns: Paths) -> tuple[list[str], list[str]]:
    """List (the files there are, what was named and is not there). Globs in sorted order, none twice.

    What is there under the very name is taken, whatever brackets and braces that has. Raises ValueError for braces that
    stand for too many names.
    """
    found: list[str] = []
    absent: list[str] = []
    for pattern in as_tuple(patterns):
        there, rest = _existing(str(_home(pattern)))
        for name in braces(rest) if rest else [""]:
            matches = _matches(os.path.join(there, name) if name else there)  # noqa: PTH118  # it may be a pattern
            found += matches
            absent += [] if matches else [os.path.join(there, name)]  # noqa: PTH118
    return list(dict.fromkeys(found)), absent


def _home(pattern: str) -> Path:
    try:
        return Path(pattern).expanduser()
    except RuntimeError:  # '~nobody'
        return Path(pattern)


def _existing(pattern: str) -> tuple[str, str]:
    """Split a pattern into the folders, or the file, that are there by name, and the rest."""
    there, rest = "", Path(pattern).parts
    while rest and os.path.lexists(os.path.join(there, rest[0])):  # noqa: PTH118
        there, rest = os.path.join(there, rest[0]), rest[1:]  # noqa: PTH118
    return there, "/".join(rest)


def _matches(name: str) -> list[str]:
    there, rest = _existing(name)
    if not rest:
        return [there] if Path(there).exists() else []  # a link may lead nowhere
    pattern = os.path.join(escape(there), rest)  # noqa: PTH118
    return sorted(glob(pattern, recursive=True)) if has_magic(rest) else []


def missing(patterns: Paths, what: str, columns: str, key: str, example: str) -> str | None:
    """Say in one line which file is not there, or that nothing is, and how to point to others; None if all are.

    Args:
        patterns: what a recipe says of the files.
        what: what one of them is called.
        columns: what has to be in one, in brackets.
        key: the key of the recipe that has the patterns.
        example: a value of that key.
    """
    found, absent = expand(patterns)
    if not found:
        return f"no {what} matches {describe(patterns)}: point to yours {columns} with --set {key}='{example}'"
    if absent:
        return f"{len(absent)} of the {what}s of {describe(patterns)} ({key}) are not there, the first is {absent[0]}"
    if odd := next((name for name in found if not (Path(name).is_file() or Path(name).is_dir())), None):
        return f"{odd} is a pipe or a device, which cannot be read twice: save what it gives as a {what}"
    return None


def as_tuple(one_or_many: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Make a tuple of a word, or of words."""
    return (str(one_or_many),) if isinstance(one_or_many, str | Path) else tuple(one_or_many)


def braces(pattern: str) -> list[str]:
    """Expand braces as shells and webdataset do: {00..02}, {3..0}, {0..10..5}, {a..c}, {a,b{1,2}}, any number of them.

    A number begins with zeros where one of the two ends does. Raises ValueError for more than MOST_NAMES names.
    """
    begin = pattern.find("{")
    while begin >= 0:
        end = _closing(pattern, begin)
        choices = _choices(pattern[begin + 1 : end]) if end else None
        if choices is not None and end:
            tails = braces(pattern[end + 1 :])
            if len(choices) * len(tails) > MOST_NAMES:
                raise ValueError(f"'{pattern}' stands for more than {MOST_NAMES:,} names")
            return [pattern[:begin] + choice + tail for choice in choices for tail in tails]
        begin = pattern.find("{", begin + 1)
    return [pattern]


def _closing(pattern: str, begin: int) -> int | None:
    """Find the brace that closes the one at `begin`."""
    depth = 0
    for at in range(begin, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[at], 0)
        if not depth:
            return at
    return None


def _choices(inside: str) -> list[str] | None:
    """List what the inside of a pair of braces stands for; None where it is only text."""
    parts, depth = [""], 0
    for letter in inside:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if len(parts) > 1:
        return [choice for part in parts for choice in braces(part)]
    numbers = re.fullmatch(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?", inside)
    letters = re.fullmatch(r"([a-zA-Z])\.\.([a-zA-Z])(?:\.\.(-?\d+))?", inside)
    if numbers:
        first, last, step = numbers.groups()
        padded = any(re.match(r"-?0\d", end) for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return [f"{n:0{width}d}" for n in _steps(int(first), int(last), step)]
    if letters:
        first, last, step = letters.groups()
        return [chr(n) for n in _steps(ord(first), ord(last), step)]
    return None


def _steps(first: int, last: int, step: str | None) -> range:
    stride = abs(int(step or 1)) or 1
    steps = range(first, last + 1, stride) if first <= last else range(first, last - 1, -stride)
    if abs(last - first) // stride > MOST_NAMES:
        raise ValueError(f"'{{{first}..{last}}}' stands for more than {MOST_NAMES:,} names")
    return steps


def describe(patterns: Paths) -> str:
    """Quote patterns as a person wrote them."""
    return ", ".join(f"'{p}'" for p in as_tuple(patterns))


def is_hidden(name: str) -> bool:
    """Say whether a path is one that no person put there: macOS's twins (`._a.jpg`), Office's (`~$a.csv`), `.git/`.

    A folder hides whatever is in it.
    """
    parts = name.split("/")
    return any(part in UNSEEN or (part.startswith((".", "~$")) and part.strip(".") != "") for part in parts)


def walk(folder: Path, hidden: bool = False) -> Iterator[Path]:
    """List the files below a folder in sorted order, those behind links to folders too; `hidden` files if asked for.

    Raises OSError for a folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for here, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if hidden or not is_hidden(name))
        if (real := os.path.realpath(here)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in sorted(files) if hidden or not is_hidden(name))


def by_split(files: Sequence[str | Path]) -> dict[str, list[str]]:
    """Group files by the split that their names, or those of their folders, tell; "" is the group of all others.

    Names above the folder that all of them share tell nothing.
    """
    names = [str(file) for file in files]
    common = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""  # noqa: PTH120
    groups: dict[str, list[str]] = {}
    for name in names:
        word = _SPLIT.search(_HUMP.sub("_", os.path.relpath(name, common or ".")).lower())
        split = next((split for split, words in SPLITS.items() if word and word[1] in words), "")
        groups.setdefault(split, []).append(name)
    return groups


def are_mixed(groups: Collection[str]) -> bool:
    """Whether files of these splits, as `by_split` calls them, must not be trained on together."""
    return len(groups) > 1 and ("validation" in groups or "test" in groups)


def name_splits(groups: Mapping[str, Sequence[str]], show: Callable[[str], object] = str) -> str | None:
    """Name the splits that files are of, each with its first file as `show` has it; None where they are of one."""
    if not are_mixed(groups):
        return None
    return ", ".join(f"{split or 'others'} ({show(files[0])})" for split, files in groups.items())


def mixed(patterns: Paths) -> str | None:
    """Say that the files of a glob are of several splits: test data would be trained on, without a word."""
    for pattern in as_tuple(patterns):
        found, _ = expand(pattern)
        if some := name_splits(by_split(found)):
            return (
                f"'{pattern}' mixes splits: {some}: name the files of one split, as data.path and data.validation, or "
                "each of these patterns in a list to train on all of them"
            )
    return None


def read_bytes(path: str | os.PathLike[str], offset: int = 0, size: int | None = None) -> bytes:
    """Read a file, or a part of it. Raises OSError, and ValueError when it is larger than MAX_BYTES.

    It is opened each time: a handle that worker processes share would share its position, too.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
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
