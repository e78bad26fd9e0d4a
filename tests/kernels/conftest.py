"""Fixtures of the kernels' tests."""

from __future__ import annotations

import pytest
import torch

import kernels.chunked.logits
import kernels.chunked.small


@pytest.fixture
def seed() -> int:
    """Draws another seed every time, which pytest prints with what fails."""
    return torch.seed() % 2**31


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes chunks of 3 rows or so: small batches have many, the last one ragged, and very small ones are kept.

    None is so small that it is solved in one piece.
    """
    monkeypatch.setattr(kernels.chunked.small, "CELLS", 0)
    monkeypatch.setattr(kernels.chunked.logits, "CELLS", 60)
    monkeypatch.setattr(kernels.chunked.logits, "MIN_ROWS", 3)
    monkeypatch.setattr(kernels.chunked.logits, "KEPT_CELLS", 200)
