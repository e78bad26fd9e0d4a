"""Vectors and sequences of numbers, as cells hold them: lists, .npy files, texts of numbers.

The trap: the header of a .npy may ask for a pickle, which runs whatever code its writer liked, or for a billion rows
that its few bytes do not hold. So the header is read by itself, objects are refused, and nothing larger than the bytes
that are there is ever made.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import shorten
from workbench.loading.cells import is_empty, read_encoded

NPY = b"\x93NUMPY"
LONGEST_TEXT = 2**24
"""characters of numbers written as a text; more belong into a .npy, which takes a quarter of the memory"""
MOST_NUMBERS = 2**26
"""numbers of a cell: a quarter of a gigabyte in float32"""
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""{version of the format: what reads its header}; later ones name columns in other alphabets, and numbers have none"""


def parse_npy(content: bytes) -> np.ndarray:
    """Read an array of numbers out of the bytes of a .npy file. Raises ValueError for anything else, and for objects,
    which are pickles."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"its format is of version {'.'.join(map(str, version))}, and numbers need 1.0 or 2.0")
        shape, fortran, dtype = HEADERS[version](file)
    except Exception as error:  # a header is parsed as Python: corrupt bytes raise anything
        raise ValueError(f"not a .npy that can be read: {shorten(str(error), 120)}") from None
    if dtype.hasobject:
        raise ValueError("a .npy of Python's objects, which is a pickle and is not opened: save an array of numbers")
    if dtype.kind not in "fiub":
        raise ValueError(f"a .npy of {dtype}, and not of real numbers")
    if not all(isinstance(length, int) and not isinstance(length, bool) and length >= 0 for length in shape):
        raise ValueError(f"a .npy whose header says {shape}, which is no shape")
    rest = len(content) - file.tell()
    if math.prod(shape) * dtype.itemsize != rest:  # in Python's integers, which do not overflow
        there = " x ".join(map(str, shape)) or "1"
        raise ValueError(f"a .npy whose header says {there} numbers of {dtype}, and which holds {rest} bytes of them")
    found = np.frombuffer(content, dtype, offset=file.tell())
    return found.reshape(shape, order="F" if fortran else "C")


def parse_text(text: str) -> object:
    """Read numbers that are written as a text: JSON, or as numpy and spreadsheets write a row of them; None if it is
    something else, as a path. Raises ValueError for what begins as a list and is none."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{len(text):,} characters of numbers are more than {LONGEST_TEXT:,}: save them as a .npy")
    text = text.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
        if not text.endswith("]"):
            raise ValueError(f"a list that is cut off: {shorten(text, 60)}")
    words = re.split(r"[\s,;]+", text.removeprefix("[").removesuffix("]").strip())
    try:
        return [float(word) for word in words if word]
    except ValueError:
        if text.startswith("["):
            raise ValueError(f"a list that holds more than numbers: {shorten(text, 60)}") from None
        return None


def as_numbers(found: object) -> Float[Tensor, ...]:
    """Make float32 of numbers in lists or arrays. Raises ValueError for NaN and infinity, texts, ragged lists."""
    try:
        array = np.asarray(found)
    except (ValueError, OverflowError):
        raise ValueError("lists of different lengths: each frame needs as many numbers") from None
    if array.dtype.kind == "O":
        raise ValueError(f"not a list of numbers, but {_first_odd(found)}")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"not numbers, but {shorten(repr(array.flat[0].item() if array.size else found), 60)}")
    if array.size > MOST_NUMBERS:
        raise ValueError(f"{array.size:,} numbers are more than the {MOST_NUMBERS:,} that a cell may have")
    with np.errstate(over="ignore"):
        numbers = torch.from_numpy(np.array(array, dtype=np.float32))
    if not numbers.isfinite().all():
        raise ValueError(f"holds {numbers[~numbers.isfinite()][0].item()}, which is no number to learn from")
    return numbers


def _first_odd(found: object) -> str:
    """Name the first thing in nested lists that is no number."""
    if isinstance(found, Sequence) and not isinstance(found, str):
        for item in found:
            if not isinstance(item, int | float):
                return _first_odd(item) if isinstance(item, Sequence) and not isinstance(item, str) else repr(item)
    return type(found).__name__


def read_numbers(cell: object, root: str | Path) -> object:
    """Read the numbers of a cell, in whatever form; None where it is empty. Raises OSError and ValueError."""
    if is_empty(cell):
        return None
    if isinstance(cell, bytes) and not cell.startswith(NPY):
        try:
            cell = cell.decode()  # a member of a tar that holds a text of numbers
        except UnicodeDecodeError:
            raise ValueError(f"{len(cell)} bytes that are neither a .npy nor a text of numbers") from None
        found = parse_text(cell)
        if found is None:
            raise ValueError(f"neither a .npy nor a text of numbers, but {cell[:40]!r}")
        return found
    if isinstance(cell, str) and (found := parse_text(cell)) is not None:
        return found
    if isinstance(cell, bytes | str | dict):
        return parse_npy(read_encoded(cell, root, ".npy"))
    return cell
