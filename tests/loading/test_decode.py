"""Every mode becomes the RGB that a person would see, and every damaged file a reason."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from workbench.loading.decode import decode_image
from workbench.loading.paths import MAX_BYTES, read_bytes


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng().integers(0, 256, (height, width, channels), dtype=np.uint8)


def pixels(encoded: bytes) -> np.ndarray:
    image = decode_image(encoded)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_transparency_lies_on_white() -> None:
    rgba = noise(7, 5, 4)
    alpha = rgba[..., 3:] / 255.0
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(encode(Image.fromarray(rgba))) - expected).max() <= 1
    grey = noise(7, 5, 2)
    alpha = grey[..., 1:] / 255.0
    assert np.abs(pixels(encode(Image.fromarray(grey, "LA"))) - (grey[..., :1] * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(form: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 160, 50])
    image.putpixel((1, 0), 1)
    found = pixels(encode(image, form, transparency=1))
    assert found[0].tolist() == [[200, 10, 20], [255, 255, 255]]


def test_a_transparent_colour_of_a_true_colour_picture_is_white() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(encode(image, transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_sixteen_bits_keep_their_levels() -> None:
    levels = np.array([[0, 257, 12850, 65535]], np.uint16)
    assert pixels(encode(Image.fromarray(levels)))[0, :, 1].tolist() == [0, 1, 50, 255]
    assert pixels(encode(Image.fromarray(levels.astype(np.int32)), "TIFF"))[0, :, 1].tolist() == [0, 1, 50, 255]


def test_modes_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        decode_image(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))
    with pytest.raises(ValueError, match=r"-3 to 70000 do not fit into 16 bits"):
        decode_image(encode(Image.fromarray(np.array([[-3, 70000]], np.int32)), "TIFF"))


def test_other_modes_are_what_they_show() -> None:
    one = Image.new("1", (3, 2), 1)
    assert (pixels(encode(one)) == 255).all()
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan: red
    red = pixels(encode(cmyk, "JPEG", quality=95))
    assert (red[..., 0] > 240).all()
    assert (red[..., 1:] < 15).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if form == "WEBP" else {}
    found = pixels(encode(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert (found == [255, 0, 0]).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_cut_anywhere_a_file_is_an_error(form: str) -> None:
    whole = encode(Image.fromarray(noise(40, 30, 3)), form)
    length = random.randrange(1, len(whole) * 9 // 10)  # the last bytes of a PNG are checksums: all pixels are there
    with pytest.raises(ValueError) as caught:
        decode_image(whole[:length])
    assert str(caught.value), f"cut at {length} of {len(whole)}"


def test_flipped_bytes_give_a_picture_or_a_reason() -> None:
    seed = random.randrange(2**31)
    rng = random.Random(seed)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        whole = encode(Image.fromarray(noise(20, 20, 3)), form)
        for _ in range(30):
            damaged = bytearray(whole)
            for _ in range(8):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            try:
                mode = decode_image(bytes(damaged)).mode
            except ValueError as error:
                mode = f"refused: {error}"
            assert mode == "RGB" or len(mode) > len("refused: "), (form, seed)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims these pixels: a few bytes that would unfold to gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 12_000, 60_000])  # under, between and over Pillow's two limits
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ValueError, match=r"pixels"):
        decode_image(bomb(side, side), max_pixels=4_000_000)


def test_the_limit_counts_pixels() -> None:
    picture = encode(Image.new("L", (30, 20)))
    assert decode_image(picture, max_pixels=600).size == (30, 20)
    with pytest.raises(ValueError, match="30 x 20 pixels are more than max_pixels=599"):
        decode_image(picture, max_pixels=599)


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a picture"):
        decode_image(content)


def test_a_file_is_read_in_part_and_never_without_measure(tmp_path: Any) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert read_bytes(path) == b"0123456789"
    assert read_bytes(path, 3, 4) == b"3456"
    with pytest.raises(ValueError, match="more than"):
        read_bytes(path, 0, MAX_BYTES + 1)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")


TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: np.rot90(x),
}
"""{orientation: how a reader has to turn the rows of pixels that lie in the file}, from the EXIF standard's table"""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(form: str, orientation: int) -> None:
    blocks = np.kron(noise(2, 3, 3), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} | (
        {"lossless": True} if form == "WEBP" else {"subsampling": 0} if form == "JPEG" else {}
    )
    encoded = encode(Image.fromarray(blocks), form, exif=exif, **options)
    found, expected = pixels(encoded), TURNS[orientation](blocks.astype(int))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 12


def test_an_orientation_that_is_none_changes_nothing() -> None:
    picture = noise(8, 16, 3)
    for orientation in (0, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert (pixels(encode(Image.fromarray(picture), exif=exif)) == picture).all()
    assert (pixels(encode(Image.fromarray(picture), exif=b"Exif\0\0garbage")) == picture).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0", r"14 bytes of HEIC, which is not read here: convert it"),
        (b"\n<!DOCTYPE html><p>gone", "a page of HTML"),
        (b"https://a.b/c.jpg", "the address of a picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    ],
)
def test_what_people_take_for_pictures_is_named(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"not a picture that can be read .*{said}"):
        decode_image(content)


def test_avif_is_read_where_pillow_has_it() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    assert np.abs(pixels(encode(Image.new("RGB", (16, 16), (200, 30, 40)), "AVIF")) - [200, 30, 40]).max() < 12
