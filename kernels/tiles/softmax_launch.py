"""The softmax losses' launches: log-sum-exps of the rows and columns of S, and products with the gradient of a loss.

S is formed twice: once for the log-sum-exps and once for G, or once where only rows count (kernels.tiles.rows_only).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles.configs import Config
from kernels.tiles.gradient import EACH, LOGSUM, each_tiles, gradient_tiles
from kernels.tiles.launch import Tiles
from kernels.tiles.lse import lse_tiles
from kernels.tiles.operands import LOG2_E, Blocks, choose_boost, describe, launch, merge_parts, prepare_operand
from kernels.tiles.tile import ALL, POSITIVES

if TYPE_CHECKING:
    from jaxtyping import Float, Int32

ROOM = 100.0
"""how far, in powers of two, a log-sum-exp may lie below the common reference: kernels.tiles.lse, step 4"""


class Lse(NamedTuple):
    """Holds base-2 log-sum-exps; -inf where nothing counts."""

    row: Float[Tensor, " m"]
    column: Float[Tensor, " n"]
    pull: Float[Tensor, ""]
    """sum of (x_pull_i + y_pull_j) S_ij over the positives, in nats; 0 where not asked for"""


class Gradient(NamedTuple):
    """Says what gradient_tiles computes: kernels.tiles.gradient, steps 1 and 3."""

    a: Float[Tensor, " m"]
    b: Float[Tensor, " n"]
    row: Float[Tensor, " m"]
    column: Float[Tensor, " n"]
    kind: tl.constexpr
    p: Float[Tensor, " m"]
    """of positives: weights, or for LOGSUM log-sum-exps"""
    q: Float[Tensor, " n"]


@dataclass
class SoftmaxTiles(Tiles):
    """Reduces S to log-sum-exps and multiplies their gradient, with all that a softmax loss may be refined by."""

    log_weights: tuple[Tensor, Tensor] | None = None
    """of rows and of columns, in nats: added to S"""
    limits: tuple[Tensor, Tensor] | None = None
    """of rows and of columns: cosines above which a pair that is no positive leaves the log-sum-exp"""
    guides: tuple[Tensor, Tensor] | None = None
    """of rows and of columns: unit vectors whose cosines are meant; None where they are those of x and y"""
    hardness: float = 0.0
    """added to t where a pair is no positive, in what is summed and not in what is differentiated"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guides is not None:
            x_guide, y_guide = (prepare_operand(z.to(self.x.dtype), self.precision) for z in self.guides)
            self.guides = x_guide, y_guide
        self.c, self.hard = self.t * LOG2_E, (self.t + self.hardness) * LOG2_E
        given = self.log_weights or (self.t, self.t)  # what is not WEIGHED is not read
        self.log2_weights = tuple((v.float() * LOG2_E).contiguous() for v in given)

    @cached_property
    def reference(self) -> Float[Tensor, ""]:
        """Computes an upper bound of S log2(e), up to rounding, from M + N norms and no logit."""
        x, y = (torch.linalg.vector_norm(z, dim=1, dtype=torch.float32).amax() for z in (self.x, self.y))
        bound = torch.maximum(self.c.abs(), self.hard.abs()) * x * y
        return bound if self.log_weights is None else bound + sum(v.amax() for v in self.log2_weights)

    def find_exact(self, row: Tensor, column: Tensor | None, rows: slice = slice(None)) -> Int32[Tensor, ""]:
        """Says whether one exponential a logit is not enough, for these log-sum-exps: kernels.tiles.lse, step 4.

        row: of these rows; column: None where columns have no loss.
        """
        floor = self.reference - ROOM
        found = ((row < floor) & (self.x_key[rows] >= 0)).any()
        if column is not None:
            found = found | ((column < floor) & (self.y_key >= 0)).any()
        return found.int()

    def lse(self, pairs: tl.constexpr = ALL, pull: tuple[Tensor, Tensor] | None = None) -> Lse:
        """Computes log-sum-exps over these pairs; with `pull`, the sum over positives of kernels.tiles.lse, step 6."""
        always = torch.ones_like(self.x_key[:1])
        if pairs == POSITIVES:
            # Some rows' positives may all lie far below the common reference, and the pass is a short one
            return self._launch_lse(pairs, pull, shifted=False, needed=always)
        quick = self._launch_lse(pairs, pull, shifted=True, needed=always)
        # The exact pass is launched in any case, and ends at once unless the quick one lost a row or column: the host
        # does not learn which, so the results are chosen on the device, too
        needed = self.find_exact(quick.row, quick.column)
        exact = self._launch_lse(pairs, pull, shifted=False, needed=needed)
        return Lse(*(torch.where(needed != 0, e, q) for e, q in zip(exact, quick, strict=True)))

    def _launch_lse(
        self, pairs: tl.constexpr, pull: tuple[Tensor, Tensor] | None, *, shifted: bool, needed: Tensor
    ) -> Lse:
        """Launches one pass over S, chunk by chunk: rows are complete with their chunk, columns grow from it to it."""
        config = self.choose_config("lse")
        row, column = (self.t.new_full((n,), -math.inf) for n in (self.M, self.N))
        pulls = [
            self.reduce_chunk(config, chunk, row, column, pairs, pull, shifted=shifted, needed=needed)
            for chunk in self.split_chunks(config)
        ]
        return Lse(row, column, torch.cat(pulls).sum() / LOG2_E if pull else row.new_zeros(()))

    def reduce_chunk(
        self,
        config: Config,
        chunk: tuple[int, int],
        row: Float[Tensor, " m"],
        column: Float[Tensor, " n"] | None,
        pairs: tl.constexpr,
        pull: tuple[Tensor, Tensor] | None,
        *,
        shifted: bool,
        needed: Int32[Tensor, " 1"] | Int32[Tensor, ""],
        store: Blocks | None = None,
    ) -> Float[Tensor, " tiles"]:
        """Adds the tiles of a chunk of rows to base-2 log-sum-exps of rows and columns; returns the pull of each tile.

        column: None where columns have no loss. The shifted pass then stores E.
        """
        start, stop = chunk
        x, y = self.describe_operands(config)
        tile_rows, tile_columns = triton.cdiv(stop - start, config.block_m), triton.cdiv(self.N, config.block_n)
        # What a tile writes is its own: no two programs add to one number. -inf stands where a tile writes nothing
        row_parts = row.new_full((tile_columns, stop - start), -math.inf)
        column_parts = row_parts if column is None else row.new_full((tile_rows, self.N), -math.inf)
        pulls = row.new_zeros(tile_rows * tile_columns)
        launch(
            lse_tiles, self.count_programs(config, start, stop, sparse=not shifted),
            x, y, y if store is None else store, self.x_key, self.y_key, self.own, *self.log2_weights,
            *self._list_judges(config), *(pull or (row, row)), self.c, self.hard, self.reference, needed,
            row_parts, column_parts, pulls, start, stop, self.N,
            **self.make_softmax_constants(config), **self._make_judging_constants(pairs),
            SHIFTED=shifted, PAIRS=pairs, PULL=pull is not None, ROWS_ONLY=column is None,
        )  # fmt: skip
        how = {"reference": self.reference} if shifted else {"needed": needed}
        merge_parts(row_parts, row[start:stop], **how)
        if column is not None:
            merge_parts(column_parts, column, **how)
        return pulls

    def sum_each(self, p: Tensor, q: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes B, B' and the value of kernels.tiles.gradient, step 3, for log-sum-exps over the negatives."""
        config = self.choose_config("each")
        parts = [self.sum_each_chunk(config, chunk, p, q, row, column) for chunk in self.split_chunks(config)]
        B, C, values = zip(*parts, strict=True)
        return torch.cat(B), torch.stack(C).sum(0), torch.stack(values).sum()

    def sum_each_chunk(
        self, config: Config, chunk: tuple[int, int], p: Tensor, q: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " n"], Float[Tensor, ""]]:
        """Computes B of a chunk of rows, and its share of B' and of the value."""
        start, stop = chunk
        x, y = self.describe_operands(config)
        tile_rows, tile_columns = triton.cdiv(stop - start, config.block_m), triton.cdiv(self.N, config.block_n)
        row_parts, column_parts = p.new_zeros(tile_columns, stop - start), p.new_zeros(tile_rows, self.N)
        value = p.new_zeros(tile_rows * tile_columns)
        launch(
            each_tiles, self.count_programs(config, start, stop, sparse=True),
            x, y, self.x_key, self.y_key, self.own, *self.log2_weights, p, q, row, column, self.c,
            row_parts, column_parts, value, start, stop, self.N, **self.make_softmax_constants(config),
        )  # fmt: skip
        return row_parts.sum(0), column_parts.sum(0), value.sum()

    def multiply_gradient(
        self, gradient: Gradient, for_y: bool, for_x: bool, *, distinct: bool = False
    ) -> tuple[Float[Tensor, "m d"] | None, Float[Tensor, "n d"] | None]:
        """Computes (G Y, G^T X), float32, not multiplied by t; None where not asked for."""
        kind, p, q = gradient.kind, gradient.p, gradient.q
        config = self.choose_gradient_config(kind)
        boost = choose_boost(gradient.a, gradient.b)
        a, b, exact = gradient.a * boost, gradient.b * boost, self.find_exact(gradient.row, gradient.column)
        # Step 2: with the weights divided by exp2(log-sum-exp - reference) here, M + N times, the kernel takes one
        # exponential a logit in the place of two
        near_a, near_b = a * self.raise_to_reference(gradient.row), b * self.raise_to_reference(gradient.column)
        # A weight times exp2(s - p) is exp2(s - (p - log2 weight)): one product less for each pair
        p, q = (p - a.log2(), q - b.log2()) if kind == LOGSUM else (p * boost, q * boost)
        quick, slow = gradient._replace(a=near_a, b=near_b, p=p, q=q), gradient._replace(a=a, b=b, p=p, q=q)

        def write_gradient(start: int, stop: int, g: Blocks) -> None:
            self.write_gradient(config, (start, stop), g, quick, slow, exact, distinct=distinct)

        return self.multiply_by_chunks(config, write_gradient, boost, for_y, for_x)

    def raise_to_reference(self, lse: Tensor) -> Tensor:
        """Computes exp2(reference - lse), which turns E into a softmax; 0 where nothing counts: 0 inf would be NaN."""
        return (self.reference - lse.masked_fill(lse.isneginf(), math.inf)).exp2()

    def choose_config(self, kernel: str) -> Config:
        """Chooses the tiles of a kernel: other ones where its variant takes more registers."""
        if self.guides is not None:
            kernel = "guided"
        elif self.limits is not None or self.log_weights is not None or self.hardness:
            kernel = "each"
        return super().choose_config(kernel)

    def choose_gradient_config(self, kind: tl.constexpr) -> Config:
        """Chooses the tiles of gradient_tiles."""
        return self.choose_config("each" if kind == EACH else "gradient")

    def write_gradient(
        self,
        config: Config,
        chunk: tuple[int, int],
        g: Blocks,
        quick: Gradient,
        slow: Gradient,
        exact: Int32[Tensor, ""],
        *,
        distinct: bool = False,
        near: bool = False,
    ) -> None:
        """Writes a chunk of G. Both ways are launched, and `exact` says on the device which of them writes.

        near: the quick one writes only the tiles that may hold positives.
        """
        start, stop = chunk
        x, y = self.describe_operands(config)
        for shifted, weights in ((True, quick), (False, slow)):
            launch(
                gradient_tiles, self.count_programs(config, start, stop, sparse=near or not shifted),
                x, y, g, self.x_key, self.y_key, self.own, *self.log2_weights,
                *self._list_judges(config), weights.a, weights.b, weights.row, weights.column, weights.p, weights.q,
                self.c, self.hard, self.reference, exact, start, stop, self.N,
                **self.make_softmax_constants(config), **self._make_judging_constants(),
                SHIFTED=shifted, POSITIVE=weights.kind, DISTINCT=distinct, NEAR=near and shifted,
            )  # fmt: skip

    def _list_judges(self, config: Config) -> tuple[Blocks, ...]:
        """Lists the limits of rows and columns and the guides of both; what there is none of is not read."""
        x_guide, y_guide = self.guides or (self.x, self.y)
        blocks = describe(x_guide, config.block_m, config.block_k), describe(y_guide, config.block_n, config.block_k)
        return *(self.limits or (self.t, self.t)), *blocks

    def _make_judging_constants(self, pairs: tl.constexpr = ALL) -> dict[str, int | bool]:
        """Makes the compile-time arguments that are about negatives: a pass over positives alone knows of none."""
        some = pairs.value != POSITIVES.value
        guide = self.guides[0].shape[1] if some and self.guides is not None else 0
        return {"HARD": some and self.hardness > 0, "LIMITED": some and self.limits is not None, "GUIDE": guide}

    def make_softmax_constants(self, config: Config) -> dict[str, int | bool | str]:
        return self.make_constants(config) | {"WEIGHED": self.log_weights is not None}
