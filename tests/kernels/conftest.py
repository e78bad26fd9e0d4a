"""Fixtures of the kernels' tests."""

from __future__ import annotations

import pytest
import torch

import kernels.chunked.logits


@pytest.fixture
def seed() -> int:
    """Another one every time; pytest prints it with what fails."""
    return torch.seed() % 2**31


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 3 rows or so, so that small problems have many and the last is ragged; kept in very small ones."""
    monkeypatch.setattr(kernels.chunked.logits, "CELLS", 60)
    monkeypatch.setattr(kernels.chunked.logits, "MIN_ROWS", 3)
    monkeypatch.setattr(kernels.chunked.logits, "KEPT_CELLS", 200)
