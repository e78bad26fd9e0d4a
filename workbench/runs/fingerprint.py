"""Training data told from where they lie: a digest of their number and of a few raw samples, spread evenly.

The trap: it is a spot check. Data of as many samples in the same order, of which others were changed, look alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from torch import Tensor

from workbench.errors import BadSample
from workbench.seeds import seed_for
from workbench.types import Data

SAMPLES = 16


def fingerprint(data: Data) -> str | None:
    """Digest a data set; None where it cannot be read at random, as when it is streamed, or cannot be read at all."""
    read = getattr(data, "sample", None)  # of a map-style data set, which need not say that it is one
    if read is None or getattr(data, "streaming", False):
        return None
    try:
        number = len(data)
        digest = hashlib.blake2b(str(number).encode())
        for index in np.linspace(0, number - 1, min(SAMPLES, number)).round().astype(int).tolist():
            try:
                sample = read(index, np.random.default_rng(seed_for("fingerprint", index)))
            except BadSample:
                digest.update(b"bad")  # its name and reason may tell the folder
                continue
            for modality, items in sample.inputs.items():
                digest.update(modality.encode())
                for part in (part for item in items for part in _parts_of(item)):
                    digest.update(part)
    except (ValueError, OSError):  # what is wrong is said where the data are needed
        return None
    return digest.hexdigest()[:32]


def _parts_of(item: object) -> Iterator[bytes]:
    if isinstance(item, Image.Image):
        yield f"{item.mode}{item.size}".encode()
        yield item.tobytes()
    elif isinstance(item, tuple):  # a sound is its waveform and its rate
        for part in item:
            yield from _parts_of(part)
    elif isinstance(item, Tensor):
        yield f"{item.dtype}{tuple(item.shape)}".encode()
        yield item.contiguous().numpy().tobytes()
    else:
        yield str(item).encode(errors="backslashreplace")
