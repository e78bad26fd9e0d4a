"""What people hand to a trained model: pictures, paths, arrays, texts, tensors. Each is read, or refused in one line.

Pictures are decoded as for training, whatever they come as: a path or bytes by `decode_image`, an opened picture by the
encoder's own transform. Items are read when their turn comes, so that a million paths need no memory.

The trap: a string is a sequence, too, and so is one picture as an array. Both would be taken for many items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import index
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from workbench.loading.batching import to_float32, unfit
from workbench.loading.decode import decode_image
from workbench.loading.numbers import as_numbers, parse_npy
from workbench.loading.sounds import MOST_CHANNELS, Sound, as_sound, decode_sound
from workbench.types import Kind, Modality, Transform

NOUNS: dict[Kind, str] = {
    "image": "picture",
    "text": "string",
    "audio": "sound",
    "vector": "vector",
    "sequence": "sequence",
}
ARRAYS = ((np.uint8, 2), (np.uint8, 3), (np.uint16, 2))
"""(type, number of axes) of arrays that are taken for pictures: gray levels, colours [h, w, 3 or 4], 16 bits"""


def plainest_item(modality: Modality) -> object:
    """Make a raw item of a modality that any encoder of its kind reads, to see what a model input looks like."""
    if modality.kind == "image":
        return Image.new("RGB", (8, 8))
    if modality.kind == "audio":
        return torch.zeros(100), modality.rate or 16_000
    if modality.kind == "sequence":
        return torch.zeros(1, *modality.shape[1:])
    return "a" if modality.kind == "text" else torch.zeros(modality.shape)


class Reader:
    """Turns what a person gives for one modality into model inputs.

    Args:
        name: what messages call the modality.
        modality: its kind, and the shape of its vectors.
        transform: the encoder's map of one raw item to one model input, for evaluation.
    """

    def __init__(self, name: str, modality: Modality, transform: Transform) -> None:
        self.name, self.modality, self.transform = name, modality, transform
        self.example: Tensor | None = None
        with suppress(Exception):  # a user's own transform need not read it: then shapes are not compared
            self.example = transform(plainest_item(modality))

    def items(self, given: object) -> Sequence[object] | Tensor:
        """Return the items of a list, none of them read yet, or a tensor of model inputs.

        Raises ValueError that says what to write for what is no list, and for a tensor of another shape.
        """
        if self._is_one(given) or not isinstance(given, Iterable):
            noun = NOUNS[self.modality.kind]
            one = repr(given) if isinstance(given, str) and len(given) < 40 else noun
            raise ValueError(f"{self.name}: give a list of {noun}s, not one {_describe(given)}: write [{one}]")
        if isinstance(given, Tensor):
            return self._checked(given)
        items = given if isinstance(given, Sequence) else list(given)  # a Series is read by place, not by label
        if not len(items):
            raise ValueError(f"{self.name}: the list is empty, there is nothing to encode")
        return items

    def _is_one(self, given: object) -> bool:
        """Whether this is a single item that a loop would take for many."""
        if isinstance(given, str | bytes | Path | Image.Image):
            return True
        if isinstance(given, np.ndarray | Tensor):
            return given.ndim < {"image": 4, "sequence": 3}.get(self.modality.kind, 1)
        is_pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int)
        return self.modality.kind == "audio" and is_pair

    def input(self, item: object) -> Tensor:
        """Turn one item into a model input. Raises ValueError for what cannot be read."""
        if isinstance(item, Tensor) and self.modality.kind not in ("vector", "sequence"):
            return self._checked(item[None])[0]
        raw = read_item(self.modality.kind, item)
        if reason := unfit(raw, self.modality):
            raise ValueError(f"it {reason}")
        return self._checked(self.transform(raw)[None])[0]

    def _checked(self, inputs: Tensor) -> Tensor:
        """Return model inputs [n, ...] in the type that the encoder reads, bytes of pixels as they are."""
        if self.example is None:
            return inputs
        shape, dtype = list(self.example.shape), self.example.dtype
        if list(inputs.shape[1:]) != shape:
            raise ValueError(
                f"model inputs are tensors [n, {', '.join(map(str, shape))}], this one is {list(inputs.shape)}: "
                "give raw items, which are prepared here"
            )
        if self.modality.kind == "image" and inputs.dtype == torch.uint8:
            return inputs  # the encoder normalises bytes
        if self.modality.kind in ("image", "text") and inputs.is_floating_point() != dtype.is_floating_point:
            raise ValueError(f"model inputs are of {dtype}, these are of {inputs.dtype}: give raw items")
        return inputs.to(dtype)


def read_item(kind: Kind, item: object) -> object:
    """Make of what a person gives for a kind what a data set would. Raises ValueError for what is no such thing, and
    OSError for a file that cannot be read."""
    if kind == "image":
        return _picture(item)
    if kind == "audio":
        return _sound(item)
    if kind == "sequence" or (kind == "vector" and isinstance(item, str | Path)):
        return as_numbers(parse_npy(Path(item).read_bytes()) if isinstance(item, str | Path) else item)
    if kind == "text" and not isinstance(item, str):
        raise ValueError(f"{_describe(item)} is no text: give a string")
    return item


def _picture(item: object) -> Image.Image:
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, str | Path):
        return decode_image(Path(item).read_bytes())
    if isinstance(item, bytes):
        return decode_image(item)
    if isinstance(item, np.ndarray) and (item.dtype, item.ndim) in ARRAYS:
        return Image.fromarray(item)
    raise ValueError(f"{_describe(item)} is no picture: give a PIL image, a path, bytes, or [h, w, 3] of uint8")


def _sound(item: object) -> Sound:
    """Read a sound: a path or bytes of a file, or a waveform and its rate; two channels [n, 2] become their mean."""
    if isinstance(item, str | Path):
        return decode_sound(Path(item).read_bytes())
    if isinstance(item, bytes):
        return decode_sound(item)
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], np.ndarray | Tensor | list):
        raise ValueError(
            f"{_describe(item)} is no sound: give a path, bytes, or (waveform, rate), as soundfile.read does"
        )
    waveform = to_float32(item[0])
    is_stereo = waveform.ndim == 2 and waveform.shape[1] <= MOST_CHANNELS
    rate = index(item[1]) if isinstance(item[1], SupportsIndex) else item[1]  # numpy's integers, too
    return as_sound(waveform.mean(1) if is_stereo else waveform, rate)


def _describe(item: object) -> str:
    if isinstance(item, np.ndarray | Tensor):
        return f"{type(item).__name__} {list(item.shape)} of {str(item.dtype).removeprefix('torch.')}"
    return type(item).__name__
