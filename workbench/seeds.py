"""Randomness as a pure function: every step, sample and part has its own seed, so that a resumed run repeats itself.

The trap: Python's `hash` of a string changes from process to process; a digest does not.
"""

import hashlib

import torch


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed for a place such as (run seed, "order", epoch)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_torch(*parts: int | str) -> None:
    """Seed torch's global generators from a place."""
    torch.manual_seed(seed_for(*parts))


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own for a place."""
    return torch.Generator().manual_seed(seed_for(*parts))
