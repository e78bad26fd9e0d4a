"""Encoded pictures from anywhere to RGB: every mode and format becomes three honest channels, or a reason why not.

The trap: Pillow converts anything to RGB without complaint, and wrongly: 16 bits saturate to white, transparent pixels
show whatever colour lies beneath them, and a picture that a phone took upright lies on its side.
"""

from __future__ import annotations

import io
import warnings
from typing import Annotated

import numpy as np
from PIL import ExifTags, Image, ImageOps, features
from pydantic import Field

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""pictures only: Pillow would also hand PostScript to Ghostscript"""
FORMATS += ("AVIF",) if features.check("avif") else ()
OTHERS = {
    b"<!doctype html": "a page of HTML",
    b"<html": "a page of HTML",
    b"<?xml": "a page of XML",
    b"<svg": "an SVG drawing",
    b"%pdf": "a PDF",
    b"%!ps": "PostScript",
    b"http://": "the address of a picture",
    b"https://": "the address of a picture",
    b"\x1f\x8b": "a gzip file",
    b"pk\x03\x04": "a zip file",
    b"id3": "a sound",
    b"flac": "a sound",
    b"oggs": "a sound",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
}
"""{how it begins, in small letters: what it is} of what people take for pictures"""
MAX_PIXELS = 89_478_485
"""Pillow's own limit, a quarter of a gigabyte in RGB"""

PixelLimit = Annotated[int, Field(gt=0, le=MAX_PIXELS)]


def decode_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame to mode RGB, upright; what is transparent lies on white.

    Raises ValueError with the reason when the picture is corrupt, truncated, of an unknown format or mode, or has more
    than `max_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of every odd EXIF block in millions: what matters is an error below
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # also of pictures inside pictures
        try:
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
            width, height = image.size  # from the header: nothing is decompressed yet
            if width * height > max_pixels:
                raise ValueError(f"{width} x {height} pixels are more than max_pixels={max_pixels}")
            image.load()
            return to_rgb(image)
        except Image.UnidentifiedImageError:
            raise ValueError(f"not a picture that can be read ({tell_kind(encoded)})") from None
        except (ValueError, OSError) as error:
            raise ValueError(str(error)) from None
        except Exception as error:  # corrupt bytes raise anything, from SyntaxError to struct.error
            raise ValueError(f"{type(error).__name__}: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture of any mode upright and to RGB. Raises ValueError where a mode has no range to map to 0..255."""
    if is_turned(image):
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        hidden = image.info.get("transparency")  # a level of 16 bits, which no level of 8 is for certain
        clear = np.asarray(image) == hidden if isinstance(hidden, int) else None
        image = _from_16_bits(image)
        if clear is not None:
            image.paste(255, mask=Image.fromarray(clear))
    if image.mode == "F":
        raise ValueError("floating-point picture: its range is unknown")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def is_turned(image: Image.Image) -> bool:
    """Say whether the EXIF block tells to turn or mirror the picture; one that cannot be read tells nothing."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # corrupt bytes raise anything
        return False


def tell_kind(encoded: bytes) -> str:
    """Say what is there instead of a picture."""
    start = encoded[:200].lstrip().lower()
    if encoded[4:8] == b"ftyp" and encoded[8:12] in (b"heic", b"heix", b"heif", b"mif1", b"msf1", b"avif"):
        return f"{len(encoded)} bytes of {encoded[8:12].decode().upper()}, which is not read here: convert it to JPEG"
    if start.startswith(b"riff") and encoded[8:12] == b"WAVE":
        return f"{len(encoded)} bytes, a sound"
    known = next((kind for prefix, kind in OTHERS.items() if start.startswith(prefix)), None)
    return f"{len(encoded)} bytes" + (f", {known}" if known else "")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Map grey levels 0..65535 to 0..255; older versions of Pillow hold them in 32 bits."""
    levels = np.asarray(image).astype(np.int64)
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise ValueError(f"grey levels from {low} to {high} do not fit into 16 bits")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
