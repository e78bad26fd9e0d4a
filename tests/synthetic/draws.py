"""What the tests of the rendered worlds draw with."""

import torch


def seeded() -> tuple[int, torch.Generator]:
    """A fresh seed, for the message of what fails, and its generator."""
    seed = torch.seed() % 2**31
    return seed, torch.Generator().manual_seed(seed)
