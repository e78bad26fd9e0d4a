"""Drawings to small WebP pictures, all framed alike.

The trap: vendors leave different margins round a drawing, so padding alone would give the style away. Every drawing is
cropped to what is visible and set in the same margin, on white.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageStat

MARGIN = 0.03  # of the side, on each edge
QUALITY = 85
BLANK = 2.0  # standard deviation of grey levels below which there is nothing to see


class Picture(NamedTuple):
    """An encoded picture, and a digest of its pixels as a reader of the file sees them."""

    webp: bytes
    pixels: str


def frame(drawing: Image.Image, size: int) -> Image.Image:
    """Frame an RGBA drawing, cropped to its alpha box, as an RGB square of `size` pixels on white."""
    drawing = drawing.convert("RGBA")
    box = drawing.getchannel("A").getbbox()
    drawing = drawing.crop(box) if box else drawing
    scale = round(size * (1 - 2 * MARGIN)) / max(drawing.size)
    width, height = (max(1, round(side * scale)) for side in drawing.size)
    drawing = drawing.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), "white")
    square.paste(drawing, ((size - width) // 2, (size - height) // 2), drawing)
    return square


def rasterise(svg: str, size: int) -> Image.Image:
    """Draw an SVG document at `size` pixels on its longer side."""
    import resvg_py  # pyright: ignore[reportMissingImports]  # of the extra `data`: only this line needs it

    box = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)
    tall = box is not None and float(box[2]) > float(box[1])
    width, height = (None, size) if tall else (size, None)  # one side given, the other follows
    # without dpi=96 lengths in physical units come out as zero
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height, dpi=96.0, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png)))


def render(source: str | Path, size: int) -> Picture | None:
    """Turn an SVG document or a bitmap file into a WebP of `size` pixels; None when nothing shows on white."""
    drawing = Image.open(source) if isinstance(source, Path) else rasterise(source, 2 * size)
    square = frame(drawing, size)
    if ImageStat.Stat(square.convert("L")).stddev[0] < BLANK:
        return None
    webp = io.BytesIO()
    square.save(webp, "WEBP", quality=QUALITY, method=6)
    return Picture(webp.getvalue(), hashlib.sha1(Image.open(webp).tobytes()).hexdigest())
