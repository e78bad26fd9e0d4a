"""A package of 24 made-up stamps with every awkward case, to build the set `tux` from in a second."""

from __future__ import annotations

import io
import math
import struct
import wave
from pathlib import Path

from PIL import Image
from stamps_in_a_package import write_deb

NOUNS = [
    "ant",
    "bee",
    "cow",
    "dog",
    "eel",
    "fox",
    "gnu",
    "hen",
    "ibis",
    "jay",
    "kid",
    "lion",
    "mole",
    "newt",
    "owl",
    "pig",
]
LANGUAGES = ("bg", "es", "fr")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect x="1" y="2" width="5" height="3"/></svg>'


def png(hue: int, shade: int = 200, mode: str = "RGBA") -> bytes:
    """Draw a coloured bar on a transparent square."""
    picture = Image.new("RGBA", (40, 40))
    colour = Image.new("HSV", (1, 1), (hue % 256, 255, shade)).convert("RGB").getpixel((0, 0))
    picture.paste((*colour, 255), (5, 5 + hue % 9, 35, 30))
    file = io.BytesIO()
    picture.convert(mode).save(file, "PNG")
    return file.getvalue()


def sound(pitch: float, seconds: float = 0.1, rate: int = 8000) -> bytes:
    """Hum a tone, as wav: its bytes pass through the build unread, whatever the ending of their file."""
    tones = [round(20_000 * math.sin(math.tau * pitch * t / rate)) for t in range(round(seconds * rate))]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(struct.pack(f"<{len(tones)}h", *tones))
    return file.getvalue()


def stamp_files() -> dict[str, bytes]:
    """Give the files of the stamps, by name."""
    files: dict[str, bytes] = {}
    for number, noun in enumerate(NOUNS):
        files[f"animals/{noun}.txt"] = f"A {noun}.\nde.utf8=Ein {noun}, größer.\nfr.utf8=Été {noun}\n".encode()
        files[f"animals/{noun}.png"] = png(13 * number)
        for place, language in enumerate(LANGUAGES):
            files[f"animals/{noun}_desc_{language}.ogg"] = sound(200 + 7 * number + 331 * place)
    more = {
        "animals/lion.ogg": sound(90, 0.3),  # its roar
        "animals/lion_desc_es.ogg": sound(200 + 7 * NOUNS.index("lion")),  # the Bulgarian recording once more
        "animals/lion_cub.txt": b"A sleeping lion!",  # a stem that begins with another one; the same noun
        "animals/lion_cub.svg": SVG.encode(),
        "plants/lion-2.txt": b"the LION",  # the same sentence as another stem's
        "plants/lion-2.png": png(99, mode="P"),
        "plants/lion-2_desc_fr.ogg": sound(1333),
        "animals/sheep.txt": b"A ewe.",  # another noun, with the recording of `ant`: one group
        "animals/sheep.png": png(7),
        "animals/sheep_desc_bg.ogg": sound(200),
        "seasonal/gift.txt": "A gift — for “Ünal”.".encode(),  # no picture
        "seasonal/gift_desc_pt_BR.wav": sound(500),
        "seasonal/alone.txt": b"Alone.",  # one modality: in no row
        "seasonal/torn.txt": b"A torn page.",  # a picture that cannot be read, and no voice: in no row
        "seasonal/torn.png": png(1)[:60],
        "seasonal/snow.txt": b"Snow.",  # white on white, and a voice: kept without its picture
        "seasonal/snow.svg": SVG.replace("<rect", '<rect fill="#fff"').encode(),
        "seasonal/snow_desc_fr.ogg": sound(1500),
        "symbols/math/7.txt": b"Seven.",  # training only; its effect is its spoken name
        "symbols/math/7.png": png(50),
        "symbols/math/7.ogg": sound(700),
        "symbols/math/7_de.ogg": sound(710),
        "symbols/math/7_desc_fr.ogg": sound(720),
        "symbols/math/7_desc_es.ogg": sound(730),
        "symbols/math/7.dat": b"nomirror",
    }
    return files | more


def write_tiny_deb(path: Path) -> Path:
    return write_deb(path, stamp_files())
