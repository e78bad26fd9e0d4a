"""The stamps of Debian's `tuxpaint-stamps-default`: pictures with a sentence, its translations, and voices that say it.

Files that share a stem are a stamp: `x.png` or `x.svg`, `x.txt` (an English sentence, then lines `de.utf8=...`),
`x_desc_fr.ogg` (a person who says the sentence in French; `x_desc.ogg` is English), `x.ogg` (a sound of the thing) and,
of digits and letters, `x_de.ogg` (its name, spoken in German).

The trap: stems have underscores of their own (`asl_a`, `lion_cub`), so a file belongs to the longest stem that has a
text, and not to whatever stands before its first underscore.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from workbench.builders.tux.package import FETCH, LARGEST, read_package

PACKAGE = "tuxpaint-stamps-default"
FOLDER = "usr/share/tuxpaint/stamps/"
PICTURES = (".png", ".svg")
SOUNDS = (".ogg", ".wav")
OWN = ""
"""The language of a sound whose name has none."""
ENGLISH = "en"
LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z]{2})?(@[a-z]+)?")
TRANSLATION = re.compile(rf"({LANGUAGE.pattern})\.utf8=(.*)")


@dataclass
class Stamp:
    """A stamp: encoded bytes as they stand in the package, texts as they stand in its lines."""

    folder: str
    """as "animals/mammals/cats" """
    stem: str
    """as "lion" """
    sentence: str = ""
    """in English"""
    translations: dict[str, str] = field(default_factory=dict)
    """{language: sentence}"""
    pictures: dict[str, bytes] = field(default_factory=dict)
    """{"png" or "svg": file}"""
    descriptions: dict[str, bytes] = field(default_factory=dict)
    """{language: file}, ogg or wav: a person who says the sentence"""
    effects: dict[str, bytes] = field(default_factory=dict)
    """{"": a sound of the thing; language: the spoken name of a digit or a letter, whose "" is spoken English}"""

    @property
    def name(self) -> str:
        """Folder and stem, which no other stamp has."""
        return f"{self.folder}/{self.stem}" if self.folder else self.stem

    @property
    def category(self) -> str:
        """The first part of the folder, as "animals"."""
        return self.folder.partition("/")[0]


class Stamps(NamedTuple):
    """What `read_stamps` returns."""

    version: str
    """of the package; "" when an unpacked folder was read, which does not tell"""
    stamps: list[Stamp]
    """sorted by name"""
    left_out: dict[str, int]
    """{reason: files}"""


def read_stamps(source: Path) -> Stamps:
    """Read all stamps of a .deb of tuxpaint-stamps-default, or of the folder that `dpkg-deb -x` unpacks it to.

    Everything is held in memory, 220 MB. Where two files speak one language of one stamp, ogg is taken before wav.
    Spoken digits are the `effects` of the stamps "symbols/math/0" to "symbols/math/9".

    Raises ValueError when the file or the folder is missing, is another package, ends early or has no stamp.
    """
    if not source.exists():
        raise ValueError(f"{source} is not there: {FETCH}, or give the folder that `dpkg-deb -x` unpacks it to")
    version = ""
    if source.is_dir():
        files = dict(_files_in_folder(source))
    else:
        fields, unpacked = read_package(source)
        if (package := fields.get("Package")) != PACKAGE:
            raise ValueError(f"{source} is the package {package or 'of no name'}, not {PACKAGE}: {FETCH}")
        version = fields.get("Version", "")
        files = {name.removeprefix(FOLDER): content for name, content in unpacked if name.startswith(FOLDER)}
    stamps, left_out = group(files)
    if not stamps:
        raise ValueError(f"{source} has no stamp (a .txt beside its .png, under {FOLDER}): {FETCH}")
    return Stamps(version, stamps, left_out)


def _files_in_folder(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name under the folder of stamps, content); `root` is that folder or one above it.

    Raises ValueError for a folder that holds far more than stamps, before it has filled the memory.
    """
    stamps, total = root / FOLDER if (root / FOLDER).is_dir() else root, 0
    for folder, folders, names in os.walk(stamps):
        folders.sort()
        for path in (Path(folder) / name for name in sorted(names)):
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
                if total > LARGEST:
                    raise ValueError(
                        f"{root} holds more than {LARGEST >> 30} GiB: give the folder that `dpkg-deb -x` unpacked "
                        f"{PACKAGE} to, and nothing else"
                    )
                yield path.relative_to(stamps).as_posix(), path.read_bytes()


def group(files: dict[str, bytes]) -> tuple[list[Stamp], dict[str, int]]:
    """Group {name: content} to stamps, sorted by name, and count the files that belong to none, by reason."""
    texts = [name for name in sorted(files) if name.endswith(".txt")]
    stamps = {name.removesuffix(".txt"): _stamp(name, files[name]) for name in texts}
    left_out: Counter[str] = Counter()
    for name in sorted(files):  # .ogg before .wav of one name
        path = PurePosixPath(name)
        if path.suffix == ".txt":
            continue
        if path.suffix not in (*PICTURES, *SOUNDS):
            left_out["files of settings"] += path.suffix == ".dat"
            left_out["files of other kinds"] += path.suffix != ".dat"
        elif (owner := _owner(str(path.with_suffix("")), stamps)) is None:
            left_out["files without a text"] += 1
        else:
            _put(stamps[owner], path.suffix, name[len(owner) : -len(path.suffix)], files[name], left_out)
    return list(stamps.values()), {reason: count for reason, count in left_out.items() if count}


def _stamp(name: str, text: bytes) -> Stamp:
    path = PurePosixPath(name)
    first, *rest = text.decode("utf-8-sig", "replace").split("\n")
    found = (TRANSLATION.fullmatch(line.strip()) for line in rest)
    translations = {match[1]: match[4].strip() for match in found if match and match[4].strip()}
    return Stamp("" if len(path.parts) == 1 else str(path.parent), path.stem, first.strip(), translations)


def _owner(stem: str, stamps: Iterable[str]) -> str | None:
    """Find the longest stem of a stamp that `stem` begins with, up to its end or an underscore."""
    while stem not in stamps:
        shorter, underscore, last = stem.rpartition("_")
        if not underscore or "/" in last:
            return None
        stem = shorter
    return stem


def _put(stamp: Stamp, ending: str, rest: str, content: bytes, left_out: Counter[str]) -> None:
    """Give a file to its stamp, by what stands between the stem and the ending, as "_desc_fr"."""
    if ending in PICTURES:
        if rest:  # x_mirror.png: drawn for the other side
            left_out["second pictures"] += 1
        else:
            stamp.pictures[ending[1:]] = content
        return
    described = rest == "_desc" or rest.startswith("_desc_")
    language = rest.removeprefix("_desc").removeprefix("_")
    if language and not LANGUAGE.fullmatch(language):
        left_out["sounds of an unknown language"] += 1
        return
    sounds = stamp.descriptions if described else stamp.effects
    language = language or (ENGLISH if described else OWN)
    if language in sounds:
        left_out["second sounds of a language"] += 1
    else:
        sounds[language] = content
