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

from workbench.builders.emoji_shards import write
from workbench.data.emoji import FILES, PACKAGED

SIZE = (500, 375)
"""width and height, as of most photographs of Flickr30k"""
PHOTOS, TARS = 1500, 4
WORDS = (6, 15)
"""of a caption, about as COCO's"""


def emoji(folder: Path) -> str:
    """The training drawings, lossy WebP of 64 pixels, with a text each; returns the tars, as a pattern in braces.

    One text, as open_clip would take all lines of a .txt for one caption, and have more to tokenize.
    """
    rows = pq.read_table(PACKAGED / FILES["train"], columns=["image", "concept"]).to_pydict()
    concepts = pq.read_table(PACKAGED / "concepts.parquet", columns=["concept", "texts"]).to_pydict()
    names = {concept: texts[:1] for concept, texts in zip(concepts["concept"], concepts["texts"], strict=True)}
    pairs = [(image, names[concept]) for image, concept in zip(rows["image"], rows["concept"], strict=True)]
    return _write(folder, pairs, "webp")


def photos(folder: Path, count: int = PHOTOS, seed: int = 0) -> str:
    """JPEGs of quality 90 with a caption each, the same pixels every time; returns the tars, likewise."""
    rng, words = np.random.default_rng(seed), _words()
    pairs = [(photo(rng), [" ".join(rng.choice(words, rng.integers(*WORDS)))]) for _ in range(count)]
    return _write(folder, pairs, "jpg")


def _write(folder: Path, pairs: list[tuple[bytes, list[str]]], extension: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [len(pairs) * tar // TARS for tar in range(TARS + 1)]
    for tar, (begin, end) in enumerate(pairwise(bounds)):
        write(folder / f"{tar}.tar", begin, pairs[begin:end], extension)
    return f"{folder}/{{0..{TARS - 1}}}.tar"


def photo(rng: np.random.Generator) -> bytes:
    """Random colours at every scale with the amplitudes of natural pictures (1/f), and a little noise of a sensor."""
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
    """Real ones, so that the tokenizer meets what it meets in captions."""
    texts = pq.read_table(PACKAGED / "concepts.parquet", columns=["texts"])["texts"].to_pylist()
    return sorted({word for said in texts for text in said for word in text.split() if word.isalpha()})
