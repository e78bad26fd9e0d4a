"""Leaves out, in a training step, what lies behind the longest text of a batch: it is padding in every row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxtyping import Int64
from torch import Tensor


def cut_padding(ids: Int64[Tensor, "n l"], last: Int64[Tensor, " n"], blocks: Iterable[Any]) -> Int64[Tensor, "n cut"]:
    """Cut token ids behind the `last` one of the longest text.

    Left whole are those on a GPU, which every step would have to wait for; ids without values, as of a fake step; and
    those of compiled blocks, which would be compiled again for each length.
    """
    compiled = any(block._compiled_call_impl is not None for block in blocks)
    if compiled or type(ids) is not Tensor or ids.device.type != "cpu" or not len(ids):
        return ids
    return ids[:, : int(last.max()) + 1]
