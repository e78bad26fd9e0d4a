"""The first law: a model is a map of single samples. It is enforced here, before a step is taken.

Micro-batches, gathering over processes and sharding are exact because row i of an embedding depends on sample i alone.
An encoder that lets the samples of a batch see each other does not crash: it silently gets other gradients. Layers that
do so are known by their class; what a user's own code does is tried out on noise.

The trap: BatchNorm breaks the law in training only, so neither an evaluation nor a test in eval mode notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from workbench.errors import RecipeError
from workbench.seeds import seed_torch
from workbench.types import Encoder, Features, Fusion, Modality, Side

OTHERS = {"EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2", "InplaceAbn"}
"""layers of timm that use statistics of the batch without being a BatchNorm by their class"""
WRONG = "its gradients would be wrong with micro-batches or several processes, and a model here maps single samples"
INSTEAD = (
    "take a tower with LayerNorm or GroupNorm (open_clip's ViTs, its timm trunks convnext_atto and edgenext_xx_small), "
    "or keep its statistics fixed (lock: 0 of encoder open_clip does)"
)


Part = TypeVar("Part", Encoder, Fusion)
LARGEST = 100_000_000
"""parameters of a part of a user's own up to which it is tried out: more would take seconds"""


def refuse_mixing_encoder(
    part: str, encoder: Encoder, modality: Modality, again: Callable[[], Encoder] | None = None
) -> None:
    """Raise RecipeError, which calls it `part`, when a sample's features depend on the other samples of its batch.

    `again` is given for a user's own encoder, which is tried out: it makes the encoder once more, with weights, where
    this one is on the meta device, as in `wb check`.
    """
    _refuse_mixing_layers(part, encoder)
    with _tried_out(encoder, again) as real:
        if real is None:
            return

        def embed(order: list[int]) -> list[Tensor]:
            rows = torch.stack([transform(items[i]) for i in order])
            out = real(rows, tokens=True) if real.has_tokens else real(rows)
            return [x for x in (out.z, out.pooled, out.tokens) if x is not None]

        transform, items = real.transform(False), _noise(modality)
        _refuse_if_first_row_changes(part, embed)


def refuse_mixing_fusion(
    part: str,
    fusion: Fusion,
    sides: Sequence[Side],
    widths: Mapping[str, int],
    dim: int,
    again: Callable[[], Fusion] | None = None,
) -> None:
    """Raise RecipeError, which calls it `part`, when a fused row depends on the other samples of its batch.

    `again` as for encoders; sides, widths and dim are what the fusion was built with.
    """
    _refuse_mixing_layers(part, fusion)
    with _tried_out(fusion, again) as real:
        if real is None:
            return
        noise = {m: (torch.randn(5, dim), torch.randn(5, width), torch.randn(5, 3, dim)) for m, width in widths.items()}

        def fuse(order: list[int]) -> list[Tensor]:
            there = torch.ones(len(order), dtype=torch.bool)
            return [
                real(s, {m: _features(noise[m], order) for m in s.members}, dict.fromkeys(s.members, there))
                for s in sides
            ]

        _refuse_if_first_row_changes(part, fuse)


def _refuse_mixing_layers(part: str, module: nn.Module) -> None:
    module.train()  # what stays in eval mode all the same is frozen
    found = [f"{type(layer).__name__} {name}".strip() for name, layer in module.named_modules() if _mixes(layer)]
    if found:
        more = f" and {len(found) - 1} more layers" if len(found) > 1 else ""
        raise RecipeError(f"{part} mixes the samples of a batch ({found[0]}{more}): {WRONG}; {INSTEAD}")


def _mixes(layer: nn.Module) -> bool:
    if isinstance(layer, _BatchNorm):
        return layer.training or layer.running_mean is None
    # Its output is a map of single samples, but not the running statistics that it evaluates with: every micro-batch
    # changes them, twice where it is embedded twice, and every process has its own.
    if isinstance(layer, _InstanceNorm):
        return layer.training and layer.running_mean is not None
    return type(layer).__name__ in OTHERS


def _features(noise: tuple[Tensor, Tensor, Tensor], order: list[int]) -> Features:
    z, pooled, tokens = (x[order] for x in noise)
    return Features(z, pooled, tokens, torch.zeros(tokens.shape[1:]), torch.ones(tokens.shape[:2]).bool(), cls=0)


def _refuse_if_first_row_changes(part: str, outputs: Callable[[list[int]], list[Tensor]]) -> None:
    """Compare the first row beside two pairs of other samples, with the same dropout each time."""
    found = []
    for order in ([0, 1, 2], [0, 1, 2], [0, 3, 4]):
        seed_torch("first law")
        try:
            found.append([x[0] for x in outputs(order)])
        except Exception:  # a user's own code need not read noise: then nothing is known
            return
    first, repeated, other = found
    # where the same rows give another result, random numbers come from elsewhere, and nothing is known
    if _alike(first, repeated) and not _alike(first, other):
        raise RecipeError(f"{part} mixes the samples of a batch, as a try on noise shows: {WRONG}")


def _alike(a: list[Tensor], b: list[Tensor]) -> bool:
    """Equal up to the rounding of float32; shapes are the same, so that most are equal bitwise."""
    return all(bool((x - y).abs().max() <= 1e-5 * x.abs().max()) for x, y in zip(a, b, strict=True))


@contextmanager
def _tried_out(module: Part, again: Callable[[], Part] | None) -> Iterator[Part | None]:
    """Give the module in training mode, on the CPU; None where it is not a user's own, or too large to be tried out.

    Its buffers and torch's generator are put back afterwards.
    """
    if again is None or sum(p.numel() for p in module.parameters()) > LARGEST:
        yield None
        return
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        seed_torch("first law", "noise")
        real = again() if any(p.is_meta for p in module.parameters()) else module
        buffers = {name: x.clone() for name, x in real.named_buffers()}
        yield real.train()
        for name, x in real.named_buffers():
            x.copy_(buffers[name])


def _noise(modality: Modality) -> list[object]:
    """Five raw items of a modality that have nothing in common."""
    if modality.kind == "text":
        return ["a", "the second text", "3, three, iii", "zebra zebra", "What else is there?"]
    if modality.kind == "image":
        levels = torch.randint(256, (5, 64, 64, 3), dtype=torch.uint8).numpy()
        return [Image.fromarray(x) for x in levels]
    if modality.kind == "audio":
        return [(torch.randn(length), modality.rate or 16_000) for length in (9_001, 4_000, 16_000, 1, 7_777)]
    if modality.kind == "sequence":
        frames, width = modality.shape or (5, 1)
        return [torch.randn(1 + i % frames, width) for i in range(5)]
    return list(torch.randn(5, *modality.shape))
