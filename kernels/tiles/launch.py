"""S = t X Y^T + b by tiles: the host's side of the kernels, in chunks of rows.

Scratch is bounded: a chunk of G, at most M x N in rows of N, is what two library products take and then forget; partial
sums of tiles are far smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
from torch import Tensor

from kernels.scratch import scratch_limit
from kernels.tiles.configs import Config
from kernels.tiles.gradient import EACH, LOGSUM, each_tiles, gradient_tiles
from kernels.tiles.lse import lse_tiles
from kernels.tiles.operands import (
    LOG2_E,
    Blocks,
    boost_of,
    config_for,
    constants,
    described,
    device,
    matmul,
    merged,
    operand,
    precision_of,
    run,
)
from kernels.tiles.sigmoid import sigmoid_tiles
from kernels.tiles.tile import ALL, POSITIVES

if TYPE_CHECKING:
    from jaxtyping import Float, Int32

ROOM = 100.0
"""how far, in powers of two, a log-sum-exp may lie below the common reference: kernels.tiles.lse, step 4"""
WAVE = 5632
"""rows of a chunk at most: 44 tiles of 128, with 768 columns of products one wave over an H200's 132 multiprocessors"""

ByChunk = Callable[[int, int, Blocks], None]
"""(start, stop, g): writes those rows of G into g"""


class Lse(NamedTuple):
    """Base-2 log-sum-exps; -inf where nothing counts."""

    row: Float[Tensor, " m"]
    column: Float[Tensor, " n"]
    pull: Float[Tensor, ""]
    """sum of (x_pull_i + y_pull_j) S_ij over the positives, in nats; 0 where not asked for"""


class Gradient(NamedTuple):
    """What gradient_tiles computes: kernels.tiles.gradient, steps 1 and 3."""

    a: Float[Tensor, " m"]
    b: Float[Tensor, " n"]
    row: Float[Tensor, " m"]
    column: Float[Tensor, " n"]
    kind: Any
    p: Float[Tensor, " m"]
    """of positives: weights, or for LOGSUM log-sum-exps"""
    q: Float[Tensor, " n"]


@dataclass
class Tiles:
    """S = t X Y^T + b by tiles, for x [M, D], y [N, D] in their own type, keys as in kernels.tiles.tile.

    x_offset: row i is itself column x_offset + i, which never counts; None where rows and columns are different items.
    """

    x: Float[Tensor, "m d"]
    y: Float[Tensor, "n d"]
    t: Float[Tensor, ""]
    x_key: Int32[Tensor, " m"]
    y_key: Int32[Tensor, " n"]
    x_offset: int | None = None

    def __post_init__(self) -> None:
        dtype = self.x.dtype if self.x.dtype == self.y.dtype else torch.float32
        self.precision = precision_of(dtype)
        self.D = self.x.shape[1]
        self.x, self.y = (operand(z.to(dtype), self.precision) for z in (self.x, self.y))
        self.M, self.N = len(self.x), len(self.y)
        self.c = self.t * LOG2_E

    @cached_property
    def reference(self) -> Float[Tensor, ""]:
        """An upper bound of S log2(e), up to rounding."""
        x, y = (torch.linalg.vector_norm(z, dim=1, dtype=torch.float32).amax() for z in (self.x, self.y))
        return self.c.abs() * x * y

    def exact(self, row: Tensor, column: Tensor) -> Int32[Tensor, ""]:
        """Whether one exponential a logit is not enough, for these log-sum-exps: kernels.tiles.lse, step 4."""
        floor = self.reference - ROOM
        return (((row < floor) & (self.x_key >= 0)).any() | ((column < floor) & (self.y_key >= 0)).any()).int()

    def lse(self, pairs: Any = ALL, pull: tuple[Tensor, Tensor] | None = None) -> Lse:
        if pairs == POSITIVES:
            return self._lse(pairs, pull, shifted=False, needed=torch.ones_like(self.x_key[:1]))
        quick = self._lse(pairs, pull, shifted=True, needed=torch.ones_like(self.x_key[:1]))
        needed = self.exact(quick.row, quick.column)
        exact = self._lse(pairs, pull, shifted=False, needed=needed)
        return Lse(*(torch.where(needed != 0, e, q) for e, q in zip(exact, quick, strict=True)))

    def _lse(self, pairs: Any, pull: tuple[Tensor, Tensor] | None, *, shifted: bool, needed: Tensor) -> Lse:
        config = config_for("lse", self.x, min(self.M, WAVE), self.N)
        row, column = (self.t.new_full((n,), -math.inf) for n in (self.M, self.N))
        x, y = self._descriptors(config)
        pulls = []
        for start, stop in self._chunks(config):
            tile_rows, tile_columns = triton.cdiv(stop - start, config.block_m), triton.cdiv(self.N, config.block_n)
            row_parts = row.new_full((tile_columns, stop - start), -math.inf)
            column_parts = row.new_full((tile_rows, self.N), -math.inf)
            pulls.append(row.new_zeros(tile_rows * tile_columns))
            run(
                lse_tiles, self._programs(config, start, stop, sparse=not shifted),
                x, y, self.x_key, self.y_key, *(pull or (row, column)), self.c, self.reference, needed,
                row_parts, column_parts, pulls[-1], start, stop, self.N, self.x_offset or 0,
                **self._constants(config), SHIFTED=shifted, PAIRS=pairs, PULL=pull is not None,
            )  # fmt: skip
            how = {"reference": self.reference} if shifted else {"needed": needed}
            merged(row_parts, row[start:stop], **how)
            merged(column_parts, column, **how)
        return Lse(row, column, torch.cat(pulls).sum() / LOG2_E if pull else row.new_zeros(()))

    def each(self, p: Tensor, q: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B, B' and the value of kernels.tiles.gradient, step 3, for the log-sum-exps over the negatives."""
        config = config_for("each", self.x, min(self.M, WAVE), self.N)
        x, y = self._descriptors(config)
        B, C, value = torch.empty_like(p), torch.zeros_like(q), []
        for start, stop in self._chunks(config):
            tile_rows, tile_columns = triton.cdiv(stop - start, config.block_m), triton.cdiv(self.N, config.block_n)
            row_parts, column_parts = p.new_zeros(tile_columns, stop - start), p.new_zeros(tile_rows, self.N)
            value.append(p.new_zeros(tile_rows * tile_columns))
            run(
                each_tiles, self._programs(config, start, stop),
                x, y, self.x_key, self.y_key, p, q, row, column, self.c, row_parts, column_parts, value[-1],
                start, stop, self.N, self.x_offset or 0, **self._constants(config),
            )  # fmt: skip
            B[start:stop] = row_parts.sum(0)
            C += column_parts.sum(0)
        return B, C, torch.cat(value).sum()

    def products(
        self, of: Gradient, for_y: bool, for_x: bool, *, distinct: bool = False
    ) -> tuple[Float[Tensor, "m d"] | None, Float[Tensor, "n d"] | None]:
        """(G Y, G^T X), float32, not multiplied by t; None where not asked for."""
        config = config_for("each" if of.kind == EACH else "gradient", self.x, min(self.M, WAVE), self.N)
        x, y = self._descriptors(config)
        boost = boost_of(of.a, of.b)
        a, b, exact = of.a * boost, of.b * boost, self.exact(of.row, of.column)
        near_a, near_b = (
            # nothing to weigh where there is no log-sum-exp: 0 inf would be NaN
            w * (self.reference - lse.masked_fill(lse.isneginf(), math.inf)).exp2()
            for w, lse in ((a, of.row), (b, of.column))
        )
        if of.kind == LOGSUM:
            p, q = of.p - a.log2(), of.q - b.log2()
        else:
            p, q = of.p * boost, of.q * boost

        def tiles(start: int, stop: int, g: Blocks) -> None:
            for shifted, ai, bj in ((True, near_a, near_b), (False, a, b)):
                run(
                    gradient_tiles, self._programs(config, start, stop, sparse=not shifted),
                    x, y, g, self.x_key, self.y_key, ai, bj, of.row, of.column, p, q, self.c, self.reference, exact,
                    start, stop, self.N, self.x_offset or 0,
                    **self._constants(config), SHIFTED=shifted, POSITIVE=of.kind, DISTINCT=distinct,
                )  # fmt: skip

        return self._products(config, tiles, boost, for_y, for_x)

    def sigmoid(
        self, w: Tensor, v: Tensor, bias: Tensor, for_y: bool, for_x: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """(the loss, dL/dbias, G Y, G^T X) for weights w of the rows and v of the columns."""
        config = config_for("sigmoid", self.x, min(self.M, WAVE), self.N)
        x, y = self._descriptors(config)
        boost = boost_of(w.amax() * v)
        values, biases = [], []

        def tiles(start: int, stop: int, g: Blocks) -> None:
            num = triton.cdiv(stop - start, config.block_m) * triton.cdiv(self.N, config.block_n)
            values.append(w.new_empty(num))
            biases.append(w.new_empty(num))
            run(
                sigmoid_tiles, self._programs(config, start, stop),
                x, y, g, self.x_key, self.y_key, w * boost, v, self.t, bias, values[-1], biases[-1],
                start, stop, self.N, self.x_offset or 0, **self._constants(config), STORE=for_y or for_x,
            )  # fmt: skip

        GY, GX = self._products(config, tiles, boost, for_y, for_x)
        return torch.cat(values).sum() / boost, torch.cat(biases).sum() / boost, GY, GX

    def _products(
        self,
        config: Config,
        tiles: ByChunk,
        boost: Tensor,
        for_y: bool,
        for_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """G Y and G^T X for tiles(start, stop, g), which writes the rows start..stop of G times boost into g."""
        chunks = list(self._chunks(config))
        x, y = self.x[:, : self.D], self.y[:, : self.D]
        GY = x.new_empty(x.shape, dtype=torch.float32) if for_y else None
        GX = y.new_zeros(y.shape, dtype=torch.float32) if for_x else None
        # without products the kernel stores nothing, and one row stands for the scratch
        g = x.new_empty(chunks[0][1] if for_y or for_x else 1, self._padded_columns)[:, : self.N]
        for start, stop in chunks:
            chunk = g[: stop - start]
            tiles(start, stop, described(chunk, config.block_m, config.block_n // config.strips))
            if GY is not None:
                matmul(chunk, y, into=GY[start:stop], add=False)
            if GX is not None:
                matmul(chunk.T, x[start:stop], into=GX, add=True)
        return None if GY is None else GY.div_(boost), None if GX is None else GX.div_(boost)

    @property
    def _padded_columns(self) -> int:
        """N rounded up so that rows of G begin at multiples of 16 bytes."""
        return triton.cdiv(self.N, 8) * 8

    def _chunks(self, config: Config) -> Iterator[tuple[int, int]]:
        rows = min(WAVE, scratch_limit() // (self._padded_columns * self.x.element_size()))
        rows = max(rows // config.block_m, 1) * config.block_m
        return ((start, min(start + rows, self.M)) for start in range(0, self.M, rows))

    def _programs(self, config: Config, start: int, stop: int, *, sparse: bool = False) -> int:
        """`sparse` launches, which mostly return at once, have few programs that go through all tiles."""
        tiles = triton.cdiv(stop - start, config.block_m) * triton.cdiv(self.N, config.block_n)
        programs = config.programs or (2 if sparse else 0)
        return min(tiles, programs * device(self.x.device)[1]) if programs else tiles

    def _descriptors(self, config: Config) -> tuple[Blocks, Blocks]:
        return described(self.x, config.block_m, config.block_k), described(self.y, config.block_n, config.block_k)

    def _constants(self, config: Config) -> dict[str, Any]:
        return constants(config, self.x, self.precision) | {"SELF": self.x_offset is not None}
