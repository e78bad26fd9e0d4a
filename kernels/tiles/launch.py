"""S = t X Y^T + b by tiles: the host's side of the kernels, in chunks of rows, and the sigmoid loss by them.

Scratch is bounded: a chunk of G, at most M x N in rows of N, is what two library products take and then forget; partial
sums of tiles are far smaller.

Trap: launches are queued, and nothing here may ask what they found. What depends on it is launched either way, and the
kernels look for themselves whether they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from kernels.scratch import scratch_limit
from kernels.tiles.configs import Config
from kernels.tiles.operands import (
    Blocks,
    choose_boost,
    choose_config,
    choose_precision,
    describe,
    launch,
    look_up_device,
    make_constants,
    matmul,
    prepare_operand,
)
from kernels.tiles.sigmoid import sigmoid_tiles

if TYPE_CHECKING:
    from jaxtyping import Float, Int32

WAVE = 5632
"""rows of a chunk at most: 44 tiles of 128, with 768 columns of products one wave over an H200's 132 multiprocessors"""

ByChunk = Callable[[int, int, Blocks], Tensor | None]
"""(start, stop, g): writes those rows of G into g, and returns a factor of each that G still lacks, or None"""


@dataclass
class Tiles:
    """Forms S = t X Y^T + b by tiles, for x [M, D], y [N, D] in their own type, and multiplies its gradient.

    Keys are those of kernels.tiles.tile. itself: the column that each row itself is (-1 for none), which never counts;
    None where rows and columns are different items.
    """

    x: Float[Tensor, "m d"]
    y: Float[Tensor, "n d"]
    t: Float[Tensor, ""]
    x_key: Int32[Tensor, " m"]
    y_key: Int32[Tensor, " n"]
    itself: Int32[Tensor, " m"] | None = None

    def __post_init__(self) -> None:
        dtype = self.x.dtype if self.x.dtype == self.y.dtype else torch.float32
        self.precision = choose_precision(dtype)
        self.D = self.x.shape[1]
        self.x, self.y = (prepare_operand(z.to(dtype), self.precision) for z in (self.x, self.y))
        self.M, self.N = len(self.x), len(self.y)
        self.own = self.x_key if self.itself is None else self.itself  # what is not SELF is not read

    def choose_config(self, kernel: str) -> Config:
        """Chooses the tiles of a kernel."""
        return choose_config(kernel, self.x, min(self.M, WAVE), self.N)

    def sigmoid(
        self, w: Tensor, v: Tensor, bias: Tensor, for_y: bool, for_x: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Computes (the loss, dL/dbias, G Y, G^T X) for weights w of the rows and v of the columns."""
        config = self.choose_config("sigmoid")
        x, y = self.describe_operands(config)
        boost = choose_boost(w.amax() * v)
        values, biases = [], []

        def write_gradient(start: int, stop: int, g: Blocks) -> None:
            num = triton.cdiv(stop - start, config.block_m) * triton.cdiv(self.N, config.block_n)
            values.append(w.new_empty(num))
            biases.append(w.new_empty(num))
            launch(
                sigmoid_tiles, self.count_programs(config, start, stop),
                x, y, g, self.x_key, self.y_key, self.own, w * boost, v, self.t, bias, values[-1], biases[-1],
                start, stop, self.N, **self.make_constants(config), STORE=for_y or for_x,
            )  # fmt: skip

        GY, GX = self.multiply_by_chunks(config, write_gradient, boost, for_y, for_x)
        # w was boosted, and with it the loss and dL/dbias
        return torch.cat(values).sum() / boost, torch.cat(biases).sum() / boost, GY, GX

    def multiply_by_chunks(
        self,
        config: Config,
        write_gradient: ByChunk,
        boost: Tensor | None,
        for_y: bool,
        for_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Computes G Y and G^T X for write_gradient(start, stop, g), which writes those rows of G times boost into g.

        G is rounded to the operands' type, as the tensor cores take it; their sums, and the sum over chunks, are
        float32. The same scratch serves every chunk: launches run in their order, so what it held has been read.
        """
        chunks = list(self.split_chunks(config))
        x, y = self.x[:, : self.D], self.y[:, : self.D]
        GY = x.new_empty(x.shape, dtype=torch.float32) if for_y else None
        GX = y.new_zeros(y.shape, dtype=torch.float32) if for_x else None
        # Without products the kernel stores nothing, and one row stands for the scratch
        g = x.new_empty(chunks[0][1] if for_y or for_x else 1, self.padded_columns)[:, : self.N]
        for start, stop in chunks:
            chunk = g[: stop - start]
            factor = write_gradient(start, stop, describe(chunk, config.block_m, config.block_n // config.strips))
            rows = x[start:stop] if factor is None else (x[start:stop] * factor[:, None]).to(x.dtype)
            if GY is not None:
                matmul(chunk, y, into=GY[start:stop], add=False)
                if factor is not None:
                    GY[start:stop].mul_(factor[:, None])
            if GX is not None:
                matmul(chunk.T, rows, into=GX, add=True)
        if boost is not None:
            GY, GX = (None if product is None else product.div_(boost) for product in (GY, GX))
        return GY, GX

    @property
    def padded_columns(self) -> int:
        """Returns N rounded up so that rows of G begin at multiples of 16 bytes."""
        return triton.cdiv(self.N, 8) * 8

    def split_chunks(self, config: Config) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of chunks of whole tiles of rows, whose G keeps within the scratch limit."""
        rows = min(WAVE, scratch_limit() // (self.padded_columns * self.x.element_size()))
        rows = max(rows // config.block_m, 1) * config.block_m
        return ((start, min(start + rows, self.M)) for start in range(0, self.M, rows))

    def count_programs(self, config: Config, start: int, stop: int, *, sparse: bool = False) -> int:
        """Counts the programs of a launch: one a tile, or a few for each multiprocessor that go through all tiles.

        `sparse` launches mostly return at once, so that starting a program for every tile would be their cost.
        """
        tiles = triton.cdiv(stop - start, config.block_m) * triton.cdiv(self.N, config.block_n)
        programs = config.programs or (2 if sparse else 0)
        return min(tiles, programs * look_up_device(self.x.device)[1]) if programs else tiles

    def describe_operands(self, config: Config) -> tuple[Blocks, Blocks]:
        return describe(self.x, config.block_m, config.block_k), describe(self.y, config.block_n, config.block_k)

    def make_constants(self, config: Config) -> dict[str, int | bool | str]:
        return make_constants(config, self.x, self.precision) | {"SELF": self.itself is not None}
