"""Small pictures that say which one they are, and a look at what a data set makes of them."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import small_pairs
import torch
from packaged_emoji import rows

from workbench.loading.feed import Feed
from workbench.types import Batch


@pytest.fixture(scope="module")
def concepts() -> list[dict]:
    """Of the packaged emoji, in the order of their ids."""
    return rows("concepts.parquet")


@pytest.fixture
def picture() -> Callable[[int], bytes]:
    return small_pairs.picture


@pytest.fixture
def look() -> Callable[..., tuple[int, list[str]]]:
    """(grey level, captions) of a sample."""

    def at(data: Any, index: int) -> tuple[int, list[str]]:
        sample = data.sample(index, np.random.default_rng(0))
        return sample.inputs["image"][0].getpixel((0, 0))[0], sample.inputs["text"]

    return at


@pytest.fixture
def batches() -> Callable[..., list[Batch]]:
    """The first batches, with grey levels and lengths of captions as tensors."""

    def tensor(raw: Any) -> torch.Tensor:
        return torch.tensor(float(len(raw) if isinstance(raw, str) else raw.getpixel((0, 0))[0]))

    def run(data: Any, number: int, start: int = 0, **changes: Any) -> list[Batch]:
        feed = Feed(**({"transforms": {"image": tensor, "text": tensor}, "batch": 2, "seed": 1} | changes))
        return list(islice(data.batches(start, feed), number))

    return run
