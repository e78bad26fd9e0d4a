"""real-modsum of sixty pictures and five voices, whose grey and whose length say which digit they are."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable, Mapping
from pathlib import Path
from unittest.mock import patch

import numpy as np
from stamps_in_a_package import write_deb

from workbench.builders import real_modsum

VOICES: Mapping[str, Iterable[int]] = dict.fromkeys(("", "_en_GB", "_de", "_nl", "_desc_es"), range(10))
"""{what a sound's name ends with: the digits that this voice says}"""
ROWS = {"train": 200, "validation": 100, "test": 100, "voice": 100, "language": 100}
WRITERS = {"train": (0, 40), "validation": (40, 50), "test": (50, 60)}


def tone(digit: int, pitch: float) -> bytes:
    """A WAV file at 8 kHz whose length says the digit, with silence around it."""
    levels = np.sin(2 * np.pi * pitch * np.arange(800 + 160 * digit) / 8000)
    levels[[0, -1]] = 1.0  # or where it begins hangs on its phase
    padded = np.pad(levels, 400)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(8000)
        written.writeframes((padded * 30000).astype("<i2").tobytes())
    return file.getvalue()


def write_stamps(path: Path, voices: Mapping[str, Iterable[int]] = VOICES, *, unpacked: bool = False) -> Path:
    files = {f"symbols/math/{digit}.txt": b"A digit." for digit in range(10)}
    files["animals/cat.txt"] = b"A cat."
    files["animals/cat_desc_de.wav"] = tone(3, 500)
    for at, (ending, digits) in enumerate(voices.items()):
        files |= {f"symbols/math/{digit}{ending}.wav": tone(digit, 300 + 50 * at) for digit in digits}
    if not unpacked:
        return write_deb(path, files)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    digits = np.arange(60) % 10
    return np.ones((60, 8, 8)) * (1 + digits[:, None, None]), digits


def build_tiny(folder: Path, *, unpacked: bool = False) -> Path:
    source = write_stamps(folder / ("stamps" if unpacked else "stamps.deb"), unpacked=unpacked)
    with patch.multiple(real_modsum, WRITERS=WRITERS, read_digits=read_digits):
        real_modsum.build(folder / "data", deb=source, rows=ROWS)
    return folder / "data"
