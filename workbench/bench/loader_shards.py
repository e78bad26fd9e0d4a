"""Tars to measure loaders on: the packaged emoji, and synthetic photographs of an ordinary size.

The trap: a drawing of 64 pixels costs next to nothing to decode, so on emoji alone a loader's own overhead is all that
is seen; a photograph of 500 x 375 is mostly JPEG and resizing, which all loaders share.
"""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from workbench.builders.emoji_shards import build, write
from workbench.data.emoji import FILES, PACKAGED

SIZE = (500, 375)
"""width and height, as of most photographs of Flickr30k"""
PHOTOS, TARS = 1500, 4
WORDS = (6, 15)
"""of a caption, about as COCO's"""


def emoji(folder: Path) -> str:
    """Write the training drawings as tars, lossy WebP of 64 pixels, with a text each; returns the tars, as a pattern in
    braces.

    One text, as open_clip would take all lines of a .txt for one caption, and have more to tokenize.
    """
    drawings = pq.read_metadata(PACKAGED / FILES["train"]).num_rows
    build(folder, shard=-(-drawings // TARS), texts_each=1)
    return f"{folder}/train-{{000000..{TARS - 1:06}}}.tar"


def photos(folder: Path, count: int = PHOTOS, seed: int = 0) -> str:
    """Write JPEGs of quality 90 as tars, with a caption each, the same pixels every time; returns the tars,
    likewise."""
    rng, words = np.random.default_rng(seed), _words()
    pairs = [(photo(rng), [" ".join(rng.choice(words, rng.integers(*WORDS)))]) for _ in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [len(pairs) * tar // TARS for tar in range(TARS + 1)]
    for tar, (begin, end) in enumerate(pairwise(bounds)):
        write(folder / f"{tar}.tar", begin, pairs[begin:end], "jpg")
    return f"{folder}/{{0..{TARS - 1}}}.tar"


def photo(rng: np.random.Generator) -> bytes:
    """Draw random colours at every scale with the amplitudes of natural pictures (1/f), and a little noise of a
    sensor."""
    width, height = SIZE
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        grid = rng.integers(256, size=(cells * 3 // 4 or 1, cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(grid).resize(SIZE, Image.Resampling.BICUBIC)
        picture += (np.asarray(smooth, np.float32) - 128) / cells**0.7
    picture += 128 + rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    out = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _words() -> list[str]:
    """Collect real words, so that the tokenizer meets what it meets in captions."""
    texts = pq.read_table(PACKAGED / "concepts.parquet", columns=["texts"])["texts"].to_pylist()
    return sorted({word for said in texts for text in said for word in text.split() if word.isalpha()})
