"""The host's side of the Khatri-Rao kernels: chunks of z, so that G and its products stay within the scratch limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from kernels.autograd import without_autocast
from kernels.scratch import scratch_limit
from kernels.tiles import operands
from kernels.tiles.khatri_rao import khatri_rao_gradient_tiles, khatri_rao_lse_tiles

if TYPE_CHECKING:
    from jaxtyping import Float

LN_2 = math.log(2.0)
PARTS = 2048
"""tiles' log-sum-exps of a row that are kept until they are merged"""


def khatri_rao_lse(
    x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], z: Float[Tensor, "k d"], scale: Float[Tensor, ""]
) -> Float[Tensor, " m"]:
    """Computes the log-sum-exp over all pairs (j, k) of scale sum_d x_id y_jd z_kd, in nats, float32."""
    with without_autocast(x), torch.cuda.device_of(x):
        products = _Products(x, y, z, scale)
        config, (M, N, K) = products.config, products.shape
        row = products.c.new_full((M,), -math.inf)
        x_tiles, y_tiles = products.describe_operands(products.x)
        tile_rows, tile_columns = triton.cdiv(M, config.block_m), triton.cdiv(N, config.block_n)
        # So many z at a time that PARTS log-sum-exps of a row wait to be merged: of all K they would be N K / BN a row
        step = max(PARTS // tile_columns, 1)
        for start in range(0, K, step):
            stop = min(start + step, K)
            parts = row.new_empty((stop - start) * tile_columns, M)
            operands.launch(
                khatri_rao_lse_tiles, (stop - start) * tile_rows * tile_columns,
                x_tiles, y_tiles, products.z, products.c, parts, start, stop, M, N, **products.constants,
            )  # fmt: skip
            operands.merge_parts(parts, row)
        return row * LN_2


def khatri_rao_gradients(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    scale: Float[Tensor, ""],
    row: Float[Tensor, " m"],
    g: Float[Tensor, " m"],
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Computes the wanted ones of (dx, dy, dz, dscale) of g . row, for the row that `khatri_rao_lse` returned."""
    with without_autocast(x), torch.cuda.device_of(x):
        products = _Products(x, y, z, scale)
        boost = operands.choose_boost(g)
        dx, dy, dz = products.compute_gradients(g * boost, row / LN_2)
        # Before dx meets the scale, which may be 0
        dt = (dx * products.x[:, : x.shape[1]]).sum().div_(boost)
        gradients = *(d.mul_(scale / boost) for d in (dx, dy, dz)), dt
    return tuple(d if want else None for d, want in zip(gradients, wanted, strict=True))


class _Products:
    """Holds the operands of the kernels, in their own type, padded, and multiplies dL/dS with them."""

    def __init__(self, x: Tensor, y: Tensor, z: Tensor, scale: Tensor):
        self.D, self.shape = x.shape[1], (len(x), len(y), len(z))
        precision = operands.choose_precision(x.dtype)
        self.x, self.y, self.z = (operands.prepare_operand(v, precision) for v in (x, y, z))
        self.c = scale * operands.LOG2_E
        self.config = operands.choose_config("khatri_rao", self.x, len(x), len(y) * len(z))
        self.constants = operands.make_constants(self.config, self.x, precision)
        del self.constants["GROUP"], self.constants["STRIPS"]

    def describe_operands(self, x: Tensor) -> tuple[operands.Blocks, operands.Blocks]:
        m, n, k = self.config.block_m, self.config.block_n, self.config.block_k
        return operands.describe(x, m, k), operands.describe(self.y, n, k)

    def compute_gradients(self, a: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes dX, dY, dZ without the scale, float32, for G_i(kj) = a_i exp2(s_i(kj) - row_i)."""
        (M, N, K), size = self.shape, self.x.element_size()
        dx, dy, dz = (v.new_zeros((len(v), self.D), dtype=torch.float32) for v in (self.x, self.y, self.z))
        width = triton.cdiv(N, 8) * 8
        # A slab is G for one k. Rows are split only where a single slab would not fit; beside each slab the limit has
        # room for P_k and X * z_k, rows of D numbers
        limit = scratch_limit()
        rows = min(M, max(limit // (width * size), self.config.block_m))
        slabs = min(K, max(limit // (rows * (width * size + self.D * (4 + size))), 1))
        g = self.x.new_empty(slabs, rows, width)
        for i in range(0, M, rows):
            x = self.x[i : i + rows]
            for k in range(0, K, slabs):
                z = self.z[k : k + slabs, : self.D]
                G = g[: len(z), : len(x), :N]
                self._write_gradient(x, G, a[i : i + rows], row[i : i + rows], k)
                self._add_products(G, x[:, : self.D], z, dx[i : i + rows], dy, dz[k : k + slabs])
        return dx, dy, dz

    def _write_gradient(self, x: Tensor, G: Tensor, a: Tensor, row: Tensor, k: int) -> None:
        """Writes the slabs of G that belong to z_k, z_k+1, ..."""
        config = self.config
        slabs, M, N = G.shape
        tiles = slabs * triton.cdiv(M, config.block_m) * triton.cdiv(N, config.block_n)
        operands.launch(
            khatri_rao_gradient_tiles, tiles,
            *self.describe_operands(x), self.z, operands.describe(G, 1, config.block_m, config.block_n), a, row, self.c,
            k, k + slabs, M, N, **self.constants,
        )  # fmt: skip

    def _add_products(self, G: Tensor, x: Tensor, z: Tensor, dx: Tensor, dy: Tensor, dz: Tensor) -> None:
        """Adds the products of step 2 to dx, dy, dz, for all slabs together."""
        slabs, M, N = G.shape
        G = G.view(slabs * M, N)
        P = dx.new_empty(slabs * M, self.D)
        operands.matmul(G, self.y[:, : self.D], into=P, add=False)
        # Sums of products of float32: P was never rounded to the operands' type
        P = P.view(slabs, M, self.D)
        dx += torch.einsum("kmd,kd->md", P, z.float())
        dz += torch.einsum("kmd,md->kd", P, x.float())
        operands.matmul(G.T, (x * z[:, None]).view(slabs * M, self.D), into=dy, add=True)
