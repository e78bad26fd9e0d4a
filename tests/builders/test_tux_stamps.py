"""The reader of Debian's stamps: which file belongs to which stamp, and packages that are none, others or cut off."""

from __future__ import annotations

import secrets
from pathlib import Path

import pyarrow as pa
import pytest
from stamps_in_a_package import FOLDER, PACKERS, ar_of, tar_of, write_deb

from workbench.builders.tux import package, stamps
from workbench.builders.tux.stamps import Stamp, group, read_stamps

FILES = {
    "animals/cats/lion.txt": "A lion.\nde.utf8=Ein Löwe.\nca@valencia.utf8=Un lleó.\nfr.utf8=\nno line\n".encode(),
    "animals/cats/lion.png": b"png",
    "animals/cats/lion.svg": b"svg",
    "animals/cats/lion.ogg": b"roar",
    "animals/cats/lion.dat": b"nomirror",
    "animals/cats/lion_mirror.png": b"mirrored",
    "animals/cats/lion_desc.ogg": b"a lion",
    "animals/cats/lion_desc_fr.ogg": b"un lion",
    "animals/cats/lion_desc_pt_BR.wav": b"um leao",
    "animals/cats/lion_desc_fr.wav": b"un lion, too",
    "animals/cats/lion_desc_da.ogg.ogg": b"?",
    "animals/cats/lion_cub.txt": b"\xef\xbb\xbfA cub.\r\nde.utf8=Ein Junges.\r\n",
    "animals/cats/lion_cub_desc_es.ogg": b"un cachorro",
    "animals/cats/tiger_desc_es.ogg": b"of no stamp",
    "animals/cats/README": b"?",
    "7.txt": b"Seven.",
    "7.svg": b"7",
    "7_de.ogg": b"sieben",
    "7_en_GB.ogg": b"seven",
}
LION = Stamp(
    "animals/cats",
    "lion",
    "A lion.",
    {"de": "Ein Löwe.", "ca@valencia": "Un lleó."},
    {"png": b"png", "svg": b"svg"},
    {"en": b"a lion", "fr": b"un lion", "pt_BR": b"um leao"},
    {"": b"roar"},
)
CUB = Stamp("animals/cats", "lion_cub", "A cub.", {"de": "Ein Junges."}, descriptions={"es": b"un cachorro"})
SEVEN = Stamp("", "7", "Seven.", pictures={"svg": b"7"}, effects={"de": b"sieben", "en_GB": b"seven"})
LEFT_OUT = {
    "files of settings": 1,
    "files of other kinds": 1,
    "second pictures": 1,
    "second sounds of a language": 1,
    "sounds of an unknown language": 1,
    "files without a text": 1,
}


def test_files_are_grouped_to_stamps_and_what_belongs_to_none_is_counted() -> None:
    found, left_out = group(dict(sorted(FILES.items(), key=lambda _: secrets.randbelow(100))))
    assert found == [SEVEN, LION, CUB]
    assert left_out == LEFT_OUT
    assert [(stamp.name, stamp.category) for stamp in found[:2]] == [("7", ""), ("animals/cats/lion", "animals")]


@pytest.mark.parametrize("packed", PACKERS)
def test_a_package_is_read_whatever_packs_it(tmp_path: Path, packed: str) -> None:
    found = read_stamps(write_deb(tmp_path / "a.deb", FILES, packed=packed))
    assert found == ("1.2-3", [SEVEN, LION, CUB], LEFT_OUT)


def test_zstd_is_read_and_what_nobody_can_read_names_dpkg(tmp_path: Path) -> None:
    deb, data = tmp_path / "a.deb", pa.BufferOutputStream()
    with pa.CompressedOutputStream(data, "zstd") as packed:
        packed.write(tar_of({FOLDER + name: content for name, content in FILES.items()}))
    control = tar_of({"./control": b"Package: tuxpaint-stamps-default\n"})
    deb.write_bytes(ar_of({"control.tar/": control, "data.tar.zst/": data.getvalue().to_pybytes()}))
    assert read_stamps(deb).stamps == [SEVEN, LION, CUB]
    deb.write_bytes(ar_of({"control.tar": control, "data.tar.lz": b"?"}))
    with pytest.raises(ValueError, match=r"data\.tar\.lz.*dpkg-deb -x"):
        read_stamps(deb)


@pytest.mark.parametrize("inside", ["", FOLDER])
def test_an_unpacked_folder_says_the_same(tmp_path: Path, inside: str) -> None:
    for name, content in FILES.items():
        file = tmp_path / FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert read_stamps(tmp_path / inside) == ("", [SEVEN, LION, CUB], LEFT_OUT)


def test_a_package_that_ends_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    """At any byte: no file of half the stamps is taken for a whole one."""
    whole = write_deb(tmp_path / "whole.deb", FILES).read_bytes()
    cut = tmp_path / "cut.deb"
    for end in {0, 7, 8, 30, len(whole) - 2, *(secrets.randbelow(len(whole) - 1) for _ in range(30))}:
        cut.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="apt-get download") as raised:
            read_stamps(cut)
        assert "\n" not in str(raised.value), end


def test_damage_inside_of_the_files_is_refused(tmp_path: Path) -> None:
    whole = bytearray(write_deb(tmp_path / "a.deb", FILES).read_bytes())
    whole[-200] ^= 0xFF
    (tmp_path / "a.deb").write_bytes(whole)
    with pytest.raises(ValueError, match=r"damaged in data\.tar\.xz"):
        read_stamps(tmp_path / "a.deb")


def test_other_things_are_refused_by_name(tmp_path: Path) -> None:
    other = write_deb(tmp_path / "other.deb", FILES, package="tuxpaint-data")
    with pytest.raises(ValueError, match="is the package tuxpaint-data, not tuxpaint-stamps-default"):
        read_stamps(other)
    (tmp_path / "picture.deb").write_bytes(b"\x89PNG\r\n\x1a\n" * 99)
    with pytest.raises(ValueError, match="no Debian package"):
        read_stamps(tmp_path / "picture.deb")
    with pytest.raises(ValueError, match=r"not there.*apt-get download"):
        read_stamps(tmp_path / "missing.deb")
    with pytest.raises(ValueError, match="no stamp"):
        read_stamps(write_deb(tmp_path / "empty.deb", {"lion.png": b""}))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="no stamp"):
        read_stamps(tmp_path / "folder")


def test_more_than_any_stamps_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = write_deb(tmp_path / "large.deb", {**FILES, "noise.txt": secrets.token_bytes(5000)})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "large.txt").write_bytes(bytes(5000))
    monkeypatch.setattr(stamps, "LARGEST", 4000)
    with pytest.raises(ValueError, match=r"holds more than .*dpkg-deb -x"):
        read_stamps(tmp_path / "folder")
    for limit, complaint in ((4000, r"holds data\.tar\.xz of .* far more"), (20_000, "unpacks to more than")):
        monkeypatch.setattr(package, "LARGEST", limit)
        with pytest.raises(ValueError, match=complaint):
            read_stamps(deb if limit == 4000 else write_deb(deb, {**FILES, "zeros.txt": bytes(50_000)}))
