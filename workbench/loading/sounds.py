"""Encoded sounds to mono waveforms: wav, flac, ogg, mp3 by soundfile, which the extra `audio` brings.

The trap: a header may promise hours that the file does not hold, and a file of a few kilobytes may unpack to gigabytes;
so the header is read first, and what is too long is refused before anything is unpacked.
"""

from __future__ import annotations

import importlib
import io
import struct
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import shorten
from workbench.loading.decode import tell_kind

ENDINGS = ("wav", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "au", "w64")
"""endings of sounds that are decoded"""
MOST_SAMPLES = 2**26
"""samples of all channels that a sound may have: 23 minutes in mono at 48 kHz, a quarter of a gigabyte"""
RATES = (50, 10**6)
"""the smallest and the largest rate of a sound: what lies beyond is a header that is damaged"""
LOUDEST = 2.0**32
"""the largest level: whole numbers of 32 bits are written as floats by some, and more would overflow a spectrogram"""
UNKNOWN = 2**31 - 2**16
"""a length of a wav from which on it stands for one that its writer did not know"""
MOST_CHANNELS = 2
"""channels that are mixed to one without a question: of more, each may be a microphone of its own"""


class Sound(NamedTuple):
    """A waveform, as an encoder's transform gets it."""

    waveform: Float[Tensor, " samples"]
    """mono, in -1..1 mostly"""
    rate: int
    """samples a second"""


def require_soundfile() -> ModuleType:
    """Import soundfile. Raises ValueError with the remedy where it is not installed."""
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # an OSError where its library is not there
        raise ValueError(
            f"sounds are read by soundfile, which cannot be imported ({error}): "
            "pip install 'multimodal-workbench[audio]'"
        ) from None


def decode_sound(encoded: bytes) -> Sound:
    """Decode a sound to one channel, the mean of two. Raises ValueError with the reason when it cannot be used."""
    soundfile = require_soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            frames, channels, rate = file.frames, file.channels, file.samplerate
            if channels > MOST_CHANNELS:
                raise ValueError(f"a sound of {channels} channels: mix it to one or two, or save the one that is meant")
            if frames * channels > MOST_SAMPLES:
                raise ValueError(
                    f"a sound of {frames:,} samples in {channels} channels, more than {MOST_SAMPLES:,} in all: cut it"
                )
            if (there := _cut_at(encoded)) is not None:
                raise ValueError(f"a sound that is cut off: {there}")
            levels = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        said = error.error_string.rstrip(".")
        raise ValueError(f"not a sound that can be read ({tell_kind(encoded)}): {said}") from None
    return as_sound(levels.mean(axis=1) if channels > 1 else levels[:, 0], rate)


def as_sound(levels: object, rate: object) -> Sound:
    """Make a sound of the samples of one channel. Raises ValueError for none of them, and for NaN and infinity."""
    try:
        with np.errstate(over="ignore"):
            waveform = torch.from_numpy(np.array(levels, dtype=np.float32))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"a sound whose samples are no numbers: {shorten(str(error), 80)}") from None
    if waveform.ndim != 1:
        raise ValueError(f"a sound of shape {' x '.join(map(str, waveform.shape))}, and not one row of samples")
    if not isinstance(rate, int) or not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a sound of {rate!r} samples a second, and between {RATES[0]} and {RATES[1]:,} are read")
    if not len(waveform):
        raise ValueError("a sound 0 samples long")
    if not waveform.isfinite().all():
        raise ValueError(f"a sound that holds {waveform[~waveform.isfinite()][0].item()}")
    if (loudest := waveform.abs().max().item()) > LOUDEST:
        raise ValueError(f"a sound whose level is {loudest:.3g}: levels are between -1 and 1")
    return Sound(waveform, rate)


def _cut_at(encoded: bytes) -> str | None:
    """Say how much of a wav is missing, whose header promises more than there is; None of anything else.

    A program that writes into a pipe cannot know the length: it leaves 0, or a number near the largest there is.
    """
    if encoded[:4] != b"RIFF" or encoded[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(encoded):
        (size,) = struct.unpack_from("<I", encoded, at + 4)
        there = len(encoded) - at - 8
        if encoded[at : at + 4] == b"data":
            is_unknown = size >= UNKNOWN
            return f"of {size:,} bytes {there:,} are there" if size > there and not is_unknown else None
        at += 8 + size + size % 2
    return None
