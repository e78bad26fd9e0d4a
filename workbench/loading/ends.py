"""The ends of very long pictures, which are cut off before a resizing makes gigabytes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

LONGEST = 16
"""times as long as wide a picture may be, of which only the centre is kept, before its ends are cut off"""


def crop_ends(image: Image.Image, size: Sequence[int], ratio: float = LONGEST) -> Image.Image:
    """Cut off the ends of a very long picture before its shorter side is resized and its centre cropped to `size`.

    A line of 60,000 x 1 would be resized to 13 million columns of which 224 are kept. What is cut off here is thrown
    away by the crop, and the middle stays the middle. A picture of at most `ratio` x 1 is returned as it is.
    """
    width, height = image.size
    shorter, longer = sorted(image.size)
    kept = math.ceil(shorter * ratio * max(size) / min(size))
    if longer <= kept:
        return image
    begin = (longer - kept) // 2
    end = longer - begin  # as much from either end, so that the centre does not move by half a pixel
    return image.crop((begin, 0, end, height) if width > height else (0, begin, width, end))
