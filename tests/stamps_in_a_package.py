"""Tiny packages of stamps, written with the standard library as Debian writes them: an `ar` of two tars."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

FOLDER = "./usr/share/tuxpaint/stamps/"
CONTROL = "Package: {package}\nVersion: 1.2-3\nDescription: stamps\n Version: 9 is in a continued line\n"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda tar: gzip.compress(tar, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def ar_of(members: dict[str, bytes]) -> bytes:
    """Pack members as `ar` does: a header of 60 bytes each, contents of odd sizes padded to even ones."""
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        parts += [header.encode(), content, b"\n" * (len(content) % 2)]
    return b"".join(parts)


def write_deb(
    path: Path, files: dict[str, bytes], *, package: str = "tuxpaint-stamps-default", packed: str = ".xz"
) -> Path:
    """Write a package whose stamps are `files`, named as "animals/cat.txt"."""
    data = tar_of({"./usr/share/doc/readme.txt": b"no stamp", **{FOLDER + name: files[name] for name in files}})
    control = tar_of({"./md5sums": b"", "./control": CONTROL.format(package=package).encode()})
    pack = PACKERS[packed]
    members = {f"control.tar{packed}": pack(control), f"data.tar{packed}": pack(data)}
    path.write_bytes(ar_of({"debian-binary": b"2.0\n", **members}))
    return path
