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
    """Seed torch's global generators from a place.

    Not by `torch.manual_seed`: while CUDA is not initialised it keeps a stack trace of every call for later, which
    costs a millisecond and memory each time.
    """
    seed = seed_for(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own for a place."""
    return torch.Generator().manual_seed(seed_for(*parts))
