"""A small transformer over frames: features of a video, of words, of events, as many as a sample has.

The trap: a padded frame is a row of zeros, as a real one may be. So a model input has one column more than a frame, 1
where the frame is there; what stands in the others of a frame that is not there never matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from workbench.attention import Block, mask_of, mean_of_real
from workbench.encoders._kinds import require_kind
from workbench.encoders._positions import line_positions
from workbench.encoders._standardise import Standardise
from workbench.loading.batching import to_float32
from workbench.types import Encoder, Features, Modality, Transform

__all__ = ["FrameTransformer"]


class FrameTransformer(Encoder):
    """Maps sequences [n, l, c + 1] to Features: a linear map of each frame, fixed sine positions, pre-norm blocks.

    `pooled` is the mean of the real frames after a LayerNorm, and z its projection. The tokens are the frames, through
    the same projection, with a mask and fixed 1-D sine positions; there is no class token. The data says how many
    frames are read at most (`at_most` of its field); of a longer sequence these are the first.

    Args:
        width: units of a frame inside of the transformer
        layers: blocks of attention and MLP
        heads: attention heads; they divide the width
        mlp_ratio: hidden units of a block's MLP, as a multiple of the width
        dropout: probability of the dropout on what each attention and each MLP adds
        standardise: subtract the mean frame of the training split and divide by the standard deviation of each number;
            null does so for sequences from files
        drop_frames: probability that a frame is left out in training; one always stays

    Raises ValueError for a modality that is no sequence, and when `heads` does not divide `width`.
    """

    has_tokens = True

    def __init__(
        self,
        modality: Modality,
        dim: int,
        *,
        width: PositiveInt = 128,
        layers: PositiveInt = 2,
        heads: PositiveInt = 4,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        standardise: bool | None = None,
        drop_frames: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ):
        super().__init__()
        require_kind(modality, ["sequence"])
        if len(modality.shape) != 2:
            raise ValueError(f"the data has to declare a shape (frames, numbers of each), and not {modality.shape}")
        if width % heads:
            fits = max(h for h in range(1, heads) if width % h == 0)
            raise ValueError(f"heads ({heads}) must divide width ({width}): set heads={fits}")
        self.frames, channels = modality.shape
        self.dim, self.width, self.drop_frames = dim, width, drop_frames
        self.needs_items = modality.measured if standardise is None else standardise
        self.standardise = Standardise((channels,)) if self.needs_items else nn.Identity()
        self.embed = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim)

    def forward(self, x: Float[Tensor, "n l c"], tokens: bool = False) -> Features:
        """Encode frames, of which the last column says whether they are there."""
        frames, real = x[..., :-1], x[..., -1] > 0
        # where no frame is, no number may come in: NaN times a weight of 0 is NaN
        frames = self.standardise(frames).where(real[..., None], 0)
        h = self.embed(frames) + line_positions(x.shape[1], self.width, x.device)
        mask = mask_of(real, h)
        for block in self.blocks:
            h = block(h, mask)
        h = self.norm(h)
        pooled = mean_of_real(h, real)
        z = self.project(pooled)
        if not tokens:
            return Features(z, pooled)
        return Features(z, pooled, self.project(h), line_positions(x.shape[1], self.dim, x.device), real)

    def measure(self, items: Iterable[Any]) -> None:
        """Fit the standardisation to all frames of sequences. Raises ValueError where there is none."""
        assert isinstance(self.standardise, Standardise)
        self.standardise.measure(map(to_float32, items))

    def repeated(self) -> list[nn.Module]:
        """List the blocks."""
        return list(self.blocks)

    def depths(self) -> dict[str, int]:
        """Give the layer of each parameter, from the map of frames (0) over the blocks up to norm and projection."""
        top = len(self.blocks) + 1
        layers = {"embed": 0, "norm": top, "project": top}
        return {
            name: 1 + int(name.split(".")[1]) if name.startswith("blocks.") else layers[name.split(".")[0]]
            for name, _ in self.named_parameters()
        }

    def transform(self, train: bool) -> Transform:
        """Give the map of a sequence [l, c] of any length to [frames, c + 1], some frames left out in training."""
        return Pad(self.frames, self.drop_frames if train else 0.0)


@dataclass(frozen=True)
class Pad:
    """Cuts a sequence to `frames`, or pads it, and marks with a last column what is there."""

    frames: int
    drop: float = 0.0
    """probability that a frame is left out"""

    def __call__(self, raw: Any) -> Float[Tensor, "l c"]:
        """Raises ValueError for what is no sequence, or has no frame."""
        x = to_float32(raw)
        if x.ndim != 2 or not len(x):
            raise ValueError(f"a sequence is [frames, numbers] with a frame or more, this one is {list(x.shape)}")
        if self.drop:
            kept = torch.rand(len(x)) >= self.drop
            kept[torch.randint(len(x), (1,))] |= ~kept.any()
            x = x[kept]
        x = x[: self.frames]
        padded = x.new_zeros(self.frames, x.shape[1] + 1)
        padded[: len(x), :-1] = x
        padded[: len(x), -1] = 1
        return padded
