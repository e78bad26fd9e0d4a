"""A handwritten digit, a spoken digit, and the word of their sum modulo 10: XOR's information, really perceived.

Pictures are scikit-learn's digits (UCI's "Optical Recognition of Handwritten Digits"), voices those in which the stamps
of Debian's `tuxpaint-stamps-default` say 0 to 9. A row is a triple of paths and a word. Every pair of digits is equally
frequent in every split, so no two fields tell anything of each other, and any two of them tell the third exactly.

The trap: what is held out are writers and voices, not sums. In `validation` the writers are new and the recordings are
those of training; in `voice` and `language` the speakers are new, too.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor

from workbench.builders.tux.stamps import read_stamps
from workbench.encoders.audio import LogMel
from workbench.loading.augment_audio import resample
from workbench.loading.sounds import decode_sound
from workbench.seeds import seed_for

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CELLS = len(WORDS) ** 2
"""pairs of digits: the rows of a split are a multiple of it"""
RATE = 16_000
"""samples a second of the voices that are written"""
SAMPLES = 20_480
"""samples of a voice that are kept, behind the silence before it: 1.28 seconds; all are shorter"""
QUIET = 50
"""what lies below the loudest sample by this factor, before and behind a voice, is silence"""
VARIANTS = ((1.0, 0.0), (0.9, 0.0), (0.94, 0.08), (1.06, 0.04), (1.12, 0.16))
"""how training hears each recording: so much faster (and higher), after so many seconds of silence"""
HANDS = 17
"""how often training has each picture: as it is, and as sixteen other hands might have written it"""
ROWS = {"train": 100_000, "validation": 2_000, "test": 2_000, "voice": 2_000, "language": 2_000}
"""{split: its rows}"""
WRITERS = {"train": (0, 1287), "validation": (1287, 1545), "test": (1545, 1797)}
"""{split: its digits, from and to}. They lie one writer after the other: the order of the digits that all were asked to
write begins again at 14 places, of which these are two"""
OTHER_VOICES = ("en_GB", "fr_desc", "ro_desc", "ru_desc")
"""voices of the split `voice`: training hears their languages from another recording"""
OTHER_LANGUAGES = ("nl", "pt", "sv")
"""voices of the split `language`: training hears no recording of them, but of their relatives"""

ABOUT = """\
real-modsum: a handwritten digit, a spoken digit, the English word of their sum modulo 10.

digits/  1,797 pictures of 8 x 8 pixels (and as numbers in -1..1, .npy), from scikit-learn's load_digits: the test set
         of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998,
         https://doi.org/10.24432/C50P49), CC BY 4.0. scikit-learn itself is BSD-3-Clause.
voices/  the digits as spoken by the volunteers of Tux Paint, from Debian's tuxpaint-stamps-default {version},
         whose licence is GPL-2 (usr/share/doc/tuxpaint-stamps-default/copyright); mixed to one channel, resampled to
         16 kHz and cut to where they are not silent; as log-mel spectrograms of 32 bands and 32 frames, too (.npy).
         VOICE_desc is the series that describes all stamps of a language, VOICE the one of the digits.
N-0 is a picture or a voice as it is; the others are for training only: pictures N-1 to N-16 as other hands might have
written them, voices N-1 to N-4 slower or faster, later.
*.parquet  rows: paths of a picture and a voice, and of their numbers; the word of the sum, the two digits, the voice.

Whoever passes these files on passes them on under those licences.
"""


class Spoken(NamedTuple):
    """A recording of a digit, as one of VARIANTS."""

    voice: str
    digit: int
    variant: int
    waveform: Float[Tensor, " n"]

    @property
    def path(self) -> str:
        """Its place below the folder of the data set, without an ending."""
        return f"voices/{self.voice}/{self.digit}-{self.variant}"


def build(out: Path, *, deb: Path, rows: Mapping[str, int] = ROWS) -> dict[str, int | dict[str, int]]:
    """Write the pictures that rows show, voices and a table a split, the same bytes every time; returns how many.

    Args:
        out: the folder.
        deb: the package tuxpaint-stamps-default, or the folder that it was unpacked to.
        rows: {split: rows}, multiples of 100.

    Raises ValueError when `deb` cannot be read, or lacks a digit in the voices of a split.
    """
    if wrong := {name: n for name, n in rows.items() if n < CELLS or n % CELLS}:
        raise ValueError(f"rows {wrong}: every pair of digits is to be equally frequent, so take multiples of {CELLS}")
    version, spoken = read_voices(deb)
    voices = {split: _voices_of(split, spoken, deb) for split in rows}
    images, digits = read_digits()
    tables = {split: draw(split, n, digits, voices[split]) for split, n in rows.items()}
    asked = {Path(path).stem for table in tables.values() for path in table["image"]}
    for at, image in enumerate(images):
        for hand in range(HANDS):
            if (name := _picture(at, hand)).rpartition("/")[2] in asked:
                written = write_anew(image, at, hand)
                _write(out / f"{name}.png", encode_png(written))
                _write(out / f"{name}.npy", encode_npy(written.flatten() / 8 - 1))
    mels = LogMel(SAMPLES, RATE, 32, 64.0, 40.0)
    for one in {one.path: one for chosen in voices.values() for one in chosen}.values():
        _write(out / f"{one.path}.wav", encode_wav(one.waveform))
        padded = F.pad(one.waveform, (0, SAMPLES - len(one.waveform)))
        _write(out / f"{one.path}.npy", encode_npy(mels(padded[None]).flatten().numpy()))
    for split, table in tables.items():
        pq.write_table(pa.table(table), out / f"{split}.parquet")
    _write(out / "README.txt", ABOUT.format(version=version or "(unpacked)").encode())
    return {
        "pictures": len(asked),
        "voices": {split: len({one.voice for one in chosen}) for split, chosen in voices.items()},
        "rows": dict(rows),
    }


def read_digits() -> tuple[Float[ndarray, "n 8 8"], Int64[ndarray, " n"]]:
    """Read scikit-learn's digits, in 0..16, and what they show."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()  # whose annotation knows of tables alone
    return found.images, found.target.astype(np.int64)


def read_voices(source: Path) -> tuple[str, list[Spoken]]:
    """Read the package's version and its recordings of digits, each in all variants. Raises ValueError."""
    found = read_stamps(source)
    digits = {f"symbols/math/{digit}": digit for digit in range(len(WORDS))}
    spoken = []
    for stamp in found.stamps:
        if (digit := digits.get(stamp.name)) is None:
            continue
        named = {language or "en": sound for language, sound in stamp.effects.items()}
        described = {f"{language}_desc": sound for language, sound in stamp.descriptions.items()}
        for voice, sound in (named | described).items():
            waveform = cut_silence(*decode_sound(sound))
            spoken += [Spoken(voice, digit, at, vary(waveform, *how)) for at, how in enumerate(VARIANTS)]
    return found.version, sorted(spoken, key=lambda one: one.path)


def cut_silence(waveform: Float[Tensor, " n"], rate: int) -> Float[Tensor, " m"]:
    """Resample to RATE and leave away what is silent before and behind."""
    x = resample(waveform, rate, RATE)
    loud = (x.abs() * QUIET >= x.abs().max()).nonzero().flatten()
    return x[int(loud[0]) : int(loud[-1]) + 1]


def vary(waveform: Float[Tensor, " n"], speed: float, delay: float) -> Float[Tensor, " m"]:
    """Play a waveform so much faster, after so many seconds of silence; SAMPLES at most."""
    x = waveform if speed == 1 else resample(waveform, round(RATE * speed), RATE)
    return F.pad(x, (round(delay * RATE), 0))[:SAMPLES]


def write_anew(image: Float[ndarray, "h w"], at: int, hand: int) -> Float[ndarray, "h w"]:
    """Write digit `at` in 0..16 as another hand might: turned, sheared, wider or flatter, moved, its greys blurred by
    noise. Hand 0 leaves it as it is. A function of the arguments alone."""
    from scipy.ndimage import affine_transform

    if hand == 0:
        return image
    rng = np.random.default_rng(seed_for("real-modsum", "hand", at, hand))
    angle, (down, right), shear = np.deg2rad(rng.normal(0, 8)), np.exp(rng.normal(0, 0.08, 2)), rng.normal(0, 0.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix, centre = turn @ np.array([[down, shear], [0, right]]), (np.array(image.shape) - 1) / 2
    offset: Any = centre - matrix @ centre + rng.normal(0, 0.5, 2)  # scipy's annotation knows of one number alone
    moved = affine_transform(image, matrix, offset, order=1)
    return (moved + rng.normal(0, 1, image.shape)).clip(0, 16)


def encode_png(image: Float[ndarray, "8 8"]) -> bytes:
    """Encode a digit in 0..16 as a PNG file."""
    file = io.BytesIO()
    Image.fromarray((image * (255 / 16)).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def encode_wav(waveform: Float[Tensor, " n"]) -> bytes:
    """Encode a waveform as a WAV file of 16 bits, one channel and RATE."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes((waveform.numpy().clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    return file.getvalue()


def encode_npy(numbers: Float[ndarray, " d"]) -> bytes:
    """Encode numbers as a .npy file of float32."""
    file = io.BytesIO()
    np.save(file, numbers.astype(np.float32))
    return file.getvalue()


def _voices_of(split: str, spoken: Sequence[Spoken], source: Path) -> list[Spoken]:
    """Choose the recordings of a split: training has all variants. Raises ValueError where a digit is missing."""
    others = {"voice": OTHER_VOICES, "language": OTHER_LANGUAGES}
    unheard = {*OTHER_VOICES, *OTHER_LANGUAGES}
    heard = [one for one in spoken if split == "train" or one.variant == 0]
    chosen = [one for one in heard if (one.voice in others[split] if split in others else one.voice not in unheard)]
    if lacking := sorted({*range(len(WORDS))} - {one.digit for one in chosen}):
        raise ValueError(
            f"{source} has no recording of {', '.join(WORDS[digit] for digit in lacking)} for the split '{split}' "
            f"({', '.join(others.get(split, ('all other voices',)))}): take the whole package tuxpaint-stamps-default"
        )
    return chosen


def draw(split: str, n: int, digits: Int64[ndarray, " d"], voices: Sequence[Spoken]) -> dict[str, list[str]]:
    """Draw the rows of a split as columns: every pair of digits n / 100 times, in random order, each digit by a random
    picture and a random recording of it. A function of the arguments alone."""
    rng = np.random.default_rng(seed_for("real-modsum", split))
    begin, end = WRITERS.get(split, WRITERS["test"])
    pictures = [begin + np.flatnonzero(digits[begin:end] == digit) for digit in range(len(WORDS))]
    recordings = [[one for one in voices if one.digit == digit] for digit in range(len(WORDS))]
    rows = []
    for cell in rng.permutation(np.arange(n) % CELLS).tolist():
        written, said = divmod(cell, len(WORDS))
        hand = int(rng.integers(HANDS)) if split == "train" else 0
        picture = _picture(int(rng.choice(pictures[written])), hand)
        recording = recordings[said][rng.integers(len(recordings[said]))]
        rows.append(
            {
                "image": f"{picture}.png",
                "pixels": f"{picture}.npy",
                "speech": f"{recording.path}.wav",
                "mels": f"{recording.path}.npy",
                "text": WORDS[(written + said) % len(WORDS)],
                "written": WORDS[written],
                "spoken": WORDS[said],
                "voice": recording.voice,
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _picture(at: int, hand: int) -> str:
    return f"digits/{at:04}-{hand}"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
