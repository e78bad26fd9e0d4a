"""Cells of anything at all: a field reads items, or says in one ValueError or OSError why it cannot."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_sources import header, npy, wav
from small_pairs import picture

from workbench.loading.fields import KINDS

TEXTS = [
    *("", " ", "a", "[", "]", "[1,2]", "[[1],[2,3]]", "[NaN]", "[1e999]", "1 2 3", "1,2,3", "nan", "inf", "-"),
    *("1" * 5000, "[" * 3000, "../..", "/", "/dev/null", "/dev/zero", "~", "\0", "\ud800", "http://a.b/c"),
    "data:image/png;base64,AAAA",
]
BYTES = [
    *(b"", b"\0", b"\xff" * 40, b"1 2", b"[1, 2]", b"\x93NUMPY", b"RIFF", b"fLaC", b"OggS", b"ID3", b"PK\x03\x04"),
    *(picture(3), npy(np.arange(4.0)), npy(np.ones((2, 3))), wav(np.zeros(5))),
    *(header("(1000000000, 3)"), header("(-1, -1)"), header("(1.5,)"), header("'a'")),
    *(header("(1,)", "|O"), header("(3,)", "<f4,<f4"), header("(24,)", "|V1")),
]
LISTS: list[Any] = [[], [[]], [None], [1, 2], [[1, 2], [3, 4]], [[1], [2, 3]], [1, "a"], ["a", "b"], [{"a": 1}], [1j]]
BLOCKS = [
    *({}, {"bytes": None, "path": None}, {"bytes": b"x"}, {"path": "none.npy"}, {"path": 3}, {"a": 1}),
    *({"array": [0.0, 1.0], "sampling_rate": 8000}, {"array": [0.0], "sampling_rate": None}),
    *({"array": [[1]], "sampling_rate": 8}, {"array": "a", "sampling_rate": 8}),
]
OTHERS = [
    None,
    0,
    1,
    -1,
    2**70,
    1.5,
    float("nan"),
    float("inf"),
    True,
    (1, 2),
    object(),
    np.arange(3),
    torch.arange(3),
    1j,
]
PIECES: list[Any] = [*TEXTS, *BYTES, *LISTS, *BLOCKS, *OTHERS]


def spoiled(rng: random.Random) -> Any:
    """A piece, or the bytes of one that are cut, doubled or changed in a place."""
    piece = rng.choice(PIECES)
    if isinstance(piece, bytes) and piece:
        place = rng.randrange(len(piece))
        return rng.choice([piece, piece[:place], piece + piece, piece[:place] + b"\xff" + piece[place + 1 :]])
    return [piece, rng.choice(PIECES)] if rng.random() < 0.1 else piece


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_read_or_refused_in_one_message(tmp_path: Path, kind: str) -> None:
    seed = random.randrange(2**31)
    rng = random.Random(seed)
    field = KINDS[kind]()
    for _ in range(1500):
        cells = [spoiled(rng) for _ in range(rng.choice([1, 1, 1, 2]))]
        try:
            items = field.read(cells, tmp_path)
        except (OSError, ValueError):
            continue
        for item in items:
            for x in item if isinstance(item, tuple) else [item]:
                if isinstance(x, torch.Tensor):
                    assert x.dtype == torch.float32, (seed, cells)
                    assert x.isfinite().all(), (seed, cells)
                    assert x.numel(), (seed, cells)
