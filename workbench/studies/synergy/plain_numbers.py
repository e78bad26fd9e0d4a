"""Raw items of any kind as rows of plain numbers, which small critics read in seconds: nothing here is learned.

A picture is read as the directions of its edges and its coarse colours, a text as its letter groups, a sound as its
spectrum, a sequence as the mean and the spread of its frames. So is what `wb synergy` finds a lower limit: a tower that
sees more can use more. Whoever has such a tower embeds the samples with it first (`wb embed`) and asks again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from workbench.loading.batching import to_float32

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

PIXELS = 64
"""a side of a picture, whatever it was"""
CELLS, DIRECTIONS = 4, 8
"""a side of the grid in which directions are counted, and how many are told apart"""
LETTERS = 1024
"""numbers that letter groups are hashed to"""
BANDS, WINDOW = 40, 400
"""of a spectrum, equally wide on a logarithmic scale; samples of a window"""


def of_picture(picture: Image.Image) -> Float[Tensor, " d"]:
    """Read a histogram of the directions of edges in each cell of a grid (Dalal and Triggs 2005), and mean colours."""
    small = picture.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)
    grey = F.pad(pixels.mean(0)[None], (1, 1, 1, 1), mode="replicate")[0]
    across, down = grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]
    place = (torch.atan2(down, across) / (2 * math.pi) + 0.5) * DIRECTIONS
    near = place.floor()
    far = torch.hypot(across, down) * (place - near)
    maps = torch.zeros(DIRECTIONS, PIXELS, PIXELS)
    maps.scatter_add_(0, (near.long() % DIRECTIONS)[None], (torch.hypot(across, down) - far)[None])
    maps.scatter_add_(0, ((near.long() + 1) % DIRECTIONS)[None], far[None])
    edges, colours = (F.adaptive_avg_pool2d(x[None], CELLS).flatten() for x in (maps, pixels))
    return torch.cat([edges.sqrt(), colours])  # roots, as few strong edges would outweigh all others


def of_text(text: str) -> Float[Tensor, " d"]:
    """Count groups of two to four letters within words, hashed; a row is as long as the root of its numbers' count."""
    found = cast("csr_matrix", _letter_groups().transform([text]))
    return torch.from_numpy(found.toarray()[0]).float() * math.sqrt(LETTERS)


@cache
def _letter_groups() -> HashingVectorizer:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=LETTERS)


def of_sound(sound: tuple[Tensor, int]) -> Float[Tensor, " d"]:
    """Take the mean and the spread over time of the log power in bands from 50 Hz to 8 kHz, and the log of its length.

    A band that lies above half of the sound's rate is silent.
    """
    waveform, rate = sound
    waveform = F.pad(waveform.float(), (0, max(0, WINDOW - len(waveform))))
    window = torch.hann_window(WINDOW)
    power = torch.stft(waveform, WINDOW, window=window, center=False, return_complex=True).abs().square()
    edges = torch.logspace(math.log10(50), math.log10(8000), BANDS + 1)
    frequency = torch.arange(len(power)) * rate / WINDOW
    band = torch.bucketize(frequency, edges) - 1
    inside = (band >= 0) & (band < BANDS)
    sums = torch.zeros(BANDS, power.shape[1]).index_add_(0, band[inside], power[inside])
    levels = (sums + 1e-6).log()
    return torch.cat([levels.mean(1), levels.std(1, correction=0), torch.tensor([math.log(len(waveform) / rate)])])


def of_sequence(frames: Tensor) -> Float[Tensor, " d"]:
    """Take the mean and the spread of the frames, and the log of their number."""
    rows = to_float32(frames)
    return torch.cat([rows.mean(0), rows.std(0, correction=0), torch.tensor([math.log(len(rows))])])


def of_vector(vector: Any) -> Float[Tensor, " d"]:
    """Take a vector, or numbers of any shape, as they are."""
    return to_float32(vector).flatten()


READERS: Mapping[str, Callable[[Any], Tensor]] = {
    "image": of_picture,
    "text": of_text,
    "audio": of_sound,
    "sequence": of_sequence,
    "vector": of_vector,
}
"""{kind of a field: what reads its raw items}"""
