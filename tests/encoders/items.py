"""Raw items of every kind that have nothing in common, awkward ones among them."""

from typing import Any

import torch
from PIL import Image

from workbench.types import Kind, Modality

RATE, SAMPLES, FRAMES, CHANNELS = 16_000, 8_000, 7, 3
MODALITIES: dict[Kind, Modality] = {
    "image": Modality("image"),
    "text": Modality("text"),
    "audio": Modality("audio", (SAMPLES,), rate=RATE),
    "vector": Modality("vector", (5,)),
    "sequence": Modality("sequence", (FRAMES, CHANNELS)),
}


def items(kind: Kind, seed: int = 0) -> list[Any]:
    """Five raw items, drawn from the seed."""
    draw = torch.Generator().manual_seed(seed)
    if kind == "text":
        return ["a", "the second text", "3, three, iii", "zebra zebra", "What else is there? " * 9]
    if kind == "image":
        sizes = ((41, 32), (9, 127), (64, 64), (33, 50), (8, 8))
        levels = [torch.randint(256, (h, w, 3), dtype=torch.uint8, generator=draw) for w, h in sizes]
        return [Image.fromarray(x.numpy()) for x in levels]
    if kind == "audio":
        lengths = ((4_100, 8_000), (509, 16_000), (1, 44_100), (41_000, 44_100), (16_000, 16_000))
        return [(0.1 * torch.randn(n, generator=draw), rate) for n, rate in lengths]
    if kind == "sequence":
        return [torch.randn(n, CHANNELS, generator=draw) for n in (1, FRAMES, 3, 2 * FRAMES + 1, 5)]
    return list(torch.randn(5, 5, generator=draw))
