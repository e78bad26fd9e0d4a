"""A Debian package read in memory: an `ar` of `control.tar` (who it is) and `data.tar` (its files). See deb(5).

The trap: a download that broke off is still a valid `ar` up to its last member, and half of the files would make half
of a data set. Every size is therefore checked, and a package that ends early is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

MAGIC = b"!<arch>\n"
HEADER = 60  # bytes before each member: name 16, time 12, owner 6, group 6, mode 8, size 10, and the mark below
MARK = b"`\n"
LARGEST = 2 << 30  # bytes of files that a package may unpack to: ten times what tuxpaint-stamps-default holds
FETCH = "fetch it again with `apt-get download tuxpaint-stamps-default`"


def _open_zstd(stream: io.BytesIO) -> io.BufferedIOBase:
    return pa.CompressedInputStream(stream, "zstd")  # the standard library has none before Python 3.14


OPENERS: dict[str, Callable[[io.BytesIO], io.BufferedIOBase]] = {
    ".tar": lambda stream: stream,
    ".tar.gz": lambda stream: gzip.GzipFile(fileobj=stream),
    ".tar.bz2": bz2.BZ2File,
    ".tar.xz": lzma.LZMAFile,
    ".tar.zst": _open_zstd,
}
"""{ending of control.tar and data.tar: what opens it}"""
DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, pa.ArrowInvalid, EOFError, OSError)
"""What these openers raise at bytes that are cut off or changed."""


def read_package(path: Path) -> tuple[dict[str, str], Iterator[tuple[str, bytes]]]:
    """Return the control fields of a .deb, as {"Package": ..., "Version": ...}, and an iterator of (name, bytes).

    Names are those inside of data.tar, without a leading "./"; links and folders are left out. The files are unpacked
    as the iterator goes on, in the order of the package.

    Raises ValueError, here or while iterating, when the file is no .deb, ends early or is damaged.
    """
    members = dict(_members(path))
    control = _member_named(path, members, "control")
    fields: dict[str, str] = {}
    for name, content in _unpack(path, control, members[control]):
        if name == "control":
            lines = content.decode("utf-8", "replace").splitlines()
            pairs = (line.partition(":") for line in lines if line[:1].strip())  # others continue the field above
            fields = {key: value.strip() for key, _, value in pairs}
    data = _member_named(path, members, "data")
    return fields, _unpack(path, data, members[data])


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each member of the `ar`."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is no Debian package (it does not begin with {MAGIC!r}): {FETCH}")
        while header := file.read(HEADER):
            if len(header) < HEADER or header[-2:] != MARK or not header[48:58].strip().isdigit():
                raise ValueError(f"{path} is damaged at byte {file.tell() - len(header):,}: {FETCH}")
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
            if size > LARGEST:
                raise ValueError(f"{path} holds {name} of {size:,} bytes, far more than any stamps: {FETCH}")
            content = file.read(size)
            if len(content) < size:
                raise ValueError(f"{path} ends after {len(content):,} of the {size:,} bytes of {name}: {FETCH}")
            yield name, content
            file.read(size % 2)  # members begin at even bytes


def _member_named(path: Path, members: dict[str, bytes], stem: str) -> str:
    """Find the member STEM.tar of any compression that can be opened."""
    found = [name for name in members if name.partition(".")[0] == stem]
    if not found:
        raise ValueError(f"{path} is no whole Debian package (it has no {stem}.tar): {FETCH}")
    if found[0].removeprefix(stem) not in OPENERS:
        raise ValueError(
            f"{path} packs its files as {found[0]}, which is not read here: unpack it with "
            f"`dpkg-deb -x {path} FOLDER` and give the folder in its place"
        )
    return found[0]


def _unpack(path: Path, member: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of a packed tar."""
    total = 0
    try:
        opened = OPENERS[member[member.index(".") :]](io.BytesIO(content))
        with tarfile.open(fileobj=opened, mode="r|") as tar:  # front to back: nothing is unpacked twice
            for info in tar:
                if not info.isreg():
                    continue
                total += info.size
                if total > LARGEST:
                    break
                file = tar.extractfile(info)
                yield info.name.removeprefix("./"), file.read() if file else b""
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged in {member} ({error}): {FETCH}") from None
    if total > LARGEST:
        raise ValueError(
            f"{path} unpacks to more than {LARGEST >> 30} GiB, so it is not tuxpaint-stamps-default: {FETCH}"
        )
