"""The logits S = t X Y^T + b by chunks of rows: the one place where M x N numbers exist, a bounded number at a time.

All that a loss needs of S is row and column log-sum-exps and the products of G = dL/dS with X and Y. Both passes ask
for S chunk by chunk and forget it, so memory is O((M + N) D + chunk N), and the second pass computes again what was not
kept.

What is fast on a CPU: chunks side by side, a thread each (kernels.chunked.threads), matrix products of many rows whose
beginnings do not fall on the same cache lines (hence PAD), elementwise passes over what a cache holds (hence blocks of
a chunk), and one exponential of each logit, exp(S - reference), for its row and its column and both passes alike.

Traps
- Several chunks are at work at a time. What adds up over chunks does so `in_turn`, or its bits depend on the threads.
- Chunks share memory: one is gone when its work returns. Only a loss's last pass may overwrite them, as the first of
  them are kept from pass to pass.
- t is folded into X in the accumulation dtype (float32 or float64), never in the inputs' own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.chunked.lse import LogSumExp
from kernels.chunked.reduction import PLAIN_PASS, FirstPass, ListPairs, LseReduction
from kernels.chunked.threads import Turns, run_each
from kernels.linear import append_log_weights

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup

    from kernels.chunked.false_negatives import FalseNegatives

CELLS = 2**19
"""logits in a chunk, 2 MiB in float32, unless there are more columns than MIN_ROWS such rows have"""
MIN_ROWS = 256
"""fewer rows than this make the matrix products slow, however many columns there are"""
BLOCKS, MIN_COLUMNS = 8, 512
"""Products that are summed over chunks are so many, or as many as have so many columns: while one chunk is added to one
of them, others are added to the others."""
PAD, ALIASING = 48, 1024
"""Rows of a multiple of ALIASING numbers get PAD numbers between them: 4 KiB apart, all their beginnings would share
a few lines of each cache, and products with them take up to twice the time."""
WORTH_THREADS = 2**21
"""so many logits take as long as starting threads does ten times"""
KEPT_CELLS = 2**26
"""so many logits are not computed again: 256 MiB in float32, and all of them in batches up to 8192"""
BELOW = 55.0
"""With unit rows no logit exceeds |t|. Up to this, exp(S) and all sums of it stay within float32, which ends at e^88;
above, subtracting a reference brings the largest back to e^55."""

ByChunk = Callable[[slice, Tensor], Tensor]
"""(rows, S[rows]) -> another matrix of that shape"""
Operands = tuple[Tensor | None, Tensor | None]
"""(Y, t X), what G is multiplied with; None where that product is not wanted"""
Products = tuple[Tensor | None, Tensor | None]
"""(G Y, t G^T X)"""


class Logits:
    """Computes S for x [M, D] and y [N, D] in the accumulation dtype, by chunks of rows.

    -inf stands where row i is itself column `self_column[i]`, and where the ids of `distinct` are equal.
    """

    def __init__(
        self,
        x: Float[Tensor, "m d"],
        y: Float[Tensor, "n d"],
        t: Float[Tensor, ""],
        *,
        bias: Float[Tensor, ""] | None = None,
        self_column: Int64[Tensor, " m"] | None = None,
        distinct: tuple[Int64[Tensor, " m"], Int64[Tensor, " n"]] | None = None,
        log_weights: tuple[Float[Tensor, " m"], Float[Tensor, " n"]] | None = None,
        false_negatives: FalseNegatives | None = None,
        hardness: float = 0.0,
        list_pairs: ListPairs | None = None,
    ):
        self.x, self.y, self.t = x, y, t
        self._log_weights, self._false_negatives = log_weights, false_negatives
        self._hardness, self._list_pairs = hardness, list_pairs
        self._bias, self._self_column, self._distinct = bias, self_column, distinct
        self._kept: dict[int, Tensor] = {}
        self._rooms: list[Tensor] = []

    @cached_property
    def tx(self) -> Float[Tensor, "m d"]:
        """Returns t X: t meets the M x D numbers of X once, in the place of the M x N numbers of S in every pass."""
        return self.x * self.t

    @cached_property
    def _appended(self) -> tuple[Float[Tensor, "m e"], Float[Tensor, "n e"]]:
        # Log-weights are two dimensions more of a product, in the place of two passes over S
        return append_log_weights(self.tx, self.y, self._log_weights)

    @property
    def left(self) -> Float[Tensor, "m e"]:
        """Returns t X, with log-weights appended where there are any."""
        return self._appended[0]

    @property
    def right(self) -> Float[Tensor, "n e"]:
        """Returns Y, with log-weights appended where there are any."""
        return self._appended[1]

    @property
    def factor(self) -> Tensor | float:
        """Returns what cosines have to be multiplied with before `amend`."""
        return 1.0 if self._hardness else self.t

    def each_slice(self, work: Callable[[slice], object]) -> None:
        """Calls `work` with the rows of each chunk, several at once where there are threads."""
        num_rows, step, turns = self.x.shape[0], count_rows(self.y.shape[0]), Turns()
        slices = [slice(start, min(start + step, num_rows)) for start in range(0, max(num_rows, 1), step)]
        self.begin_pass(turns)
        run_each(slices, work, turns)

    def begin_pass(self, turns: Turns, place: int = 0) -> None:
        """Has chunks take these turns, at gates of their own where other logits take them, too."""
        self._turns, self._place = turns, place

    def each_chunk(self, work: Callable[[slice, Tensor], object], *, keep: bool = False) -> None:
        """Calls `work` with (rows, S[rows]) for each chunk, several at once where there are threads.

        With `keep`, the first KEPT_CELLS logits stay for the next pass.
        """
        num_columns = self.y.shape[0]
        num_rows = min(count_rows(num_columns), self.x.shape[0])

        def form(rows: slice) -> None:
            if (S := self.find_kept(rows)) is not None:
                work(rows, S)
            elif keep and (S := self.make_kept(rows)) is not None:
                work(rows, self.compute(rows, S))
            else:
                # Chunks that are not kept take turns in as much memory as there are threads: fresh pages would cost a
                # pass over them
                try:
                    room = self._rooms.pop()
                except IndexError:  # asked before, another thread could take the last one in between
                    room = make_room(self.x, num_rows, num_columns)
                work(rows, self.compute(rows, room[: rows.stop - rows.start]))
                self._rooms.append(room)

        self.each_slice(form)

    def in_turn(self, rows: slice, gate: Hashable = "") -> AbstractContextManager[None]:
        """Has a chunk wait for all chunks before it: what is added up in here is added up in the order of the rows."""
        return self._turns.take(rows, (self._place, gate))

    def compute(self, rows: slice, S: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
        """Writes these rows of the logits into S."""
        if self._hardness:
            return self.amend(rows, torch.mm(self.x[rows], self.y.T, out=S))
        return self.amend(rows, torch.mm(self.left[rows], self.right.T, out=S), has_log_weights=True)

    def amend(
        self, rows: slice, S: Float[Tensor, "rows n"], *, has_log_weights: bool = False
    ) -> Float[Tensor, "rows n"]:
        """Makes these rows of the logits of their cosines, times `factor`, in the memory of S."""
        if self._hardness and self._list_pairs is not None:
            # Of the cosines positives have t and all others t + hardness times theirs
            pairs = self._list_pairs(rows)
            own = S[pairs] * self.t
            S.mul_(self.t + self._hardness)[pairs] = own
        if self._log_weights is not None and not has_log_weights:
            S.add_(self._log_weights[0][rows, None]).add_(self._log_weights[1])
        if self._bias is not None:
            S.add_(self._bias)
        if self._self_column is not None:
            column = self._self_column[rows]
            row = (column >= 0).nonzero().squeeze(1)
            S[row, column[row]] = -torch.inf
        if self._distinct is not None:
            x_ids, y_ids = self._distinct
            S.masked_fill_(x_ids[rows, None] == y_ids, -torch.inf)
        return S

    def reduce_lse(self, group: ProcessGroup | None, first: FirstPass = PLAIN_PASS, *, keep: bool = False) -> LogSumExp:
        """Computes row and column log-sum-exps of S, the columns' over all rows of the group.

        `keep` promises another pass.
        """
        reduction = LseReduction(self, first)
        self.each_chunk(reduction.add, keep=keep)
        return reduction.finish(group)

    def find_reference(self) -> float:
        """Finds what is subtracted from all logits, so that float32 holds the exponential of the largest."""
        peak = abs(float(self.t)) + self._hardness
        if self._log_weights is not None and self.x.numel() > 0:
            peak += sum(float(v.max()) for v in self._log_weights)
        return max(peak - BELOW, 0.0)

    def find_kept(self, rows: slice) -> Float[Tensor, "rows n"] | None:
        """Returns the chunk of these rows where it stayed or is to stay."""
        return self._kept.get(rows.start)

    def make_kept(self, rows: slice) -> Float[Tensor, "rows n"] | None:
        """Makes memory in which the chunk of these rows stays for the next pass, None where it is not to stay."""
        if rows.stop * self.y.shape[0] > KEPT_CELLS:
            return None
        self._kept[rows.start] = make_room(self.x, rows.stop - rows.start, self.y.shape[0])
        return self._kept[rows.start]

    def forget(self, starts: Iterable[int]) -> None:
        """Has the chunks that begin with these rows computed again."""
        for start in starts:
            del self._kept[start]

    def find_dropped(self, rows: slice, S: Float[Tensor, "rows n"]) -> tuple[Tensor, ...]:
        """Returns which pairs leave their rows' denominators and which their columns', or nothing where none may."""
        return () if self._false_negatives is None else self._false_negatives.find(rows, S)

    def multiply_gradient(
        self,
        G: ByChunk,
        y: Float[Tensor, "n d"] | None,
        tx: Float[Tensor, "m d"] | None,
    ) -> tuple[Float[Tensor, "m d"] | None, Float[Tensor, "n d"] | None]:
        """Computes (G y, G^T tx) for G given by chunks, and None in the place of a product without an operand.

        With y = Y and tx = t X they are dL/dX / t and dL/dY. The first has not met t, which may be 0, because
        dL/dt = sum_ij G_ij <x_i, y_j> = <G Y, X>.
        """
        products = None if y is None else torch.empty_like(self.x), None if tx is None else torch.empty_like(self.y)

        def multiply(rows: slice, S: Tensor) -> None:
            self.add_products(rows, G(rows, S), (y, tx), products)

        self.each_chunk(multiply)
        return products

    def add_products(
        self,
        rows: slice,
        G: Float[Tensor, "rows n"],
        operands: Operands,
        products: Products,
        dims: slice = slice(None),
    ) -> None:
        """Writes G y of these rows, and adds G^T tx to that of all rows, where they are wanted, in some dimensions.

        Both are formed while the chunk is at hand: it is never seen again.
        """
        (y, tx), (Gy, Gx) = operands, products
        if y is not None and Gy is not None:
            torch.mm(G, y[:, dims], out=Gy[rows, dims])
        if tx is None or Gx is None:
            return
        width = max(-(-self.y.shape[0] // BLOCKS), MIN_COLUMNS)
        for start in range(0, self.y.shape[0], width):
            part, sums = G[:, start : start + width].T, Gx[start : start + width, dims]
            with self.in_turn(rows, (dims.start, start)):
                if rows.start == 0:
                    torch.mm(part, tx[rows, dims], out=sums)
                else:
                    sums.addmm_(part, tx[rows, dims])


def count_rows(num_columns: int) -> int:
    """Returns the rows of a chunk: the same for any number of threads, as then the results are."""
    return max(CELLS // max(num_columns, 1), MIN_ROWS)


def count_chunks(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> int:
    """Returns how many chunks are worth a thread each: one where there is little to compute, and on other devices."""
    worth = x.device.type == "cpu" and len(x) * len(y) >= WORTH_THREADS
    return -(-len(x) // count_rows(len(y))) if worth else 1


def make_room(x: Tensor, num_rows: int, num_columns: int) -> Float[Tensor, "rows n"]:
    """Makes memory for logits of x's dtype and device, its rows padded where that is faster."""
    if num_columns % ALIASING:
        return x.new_empty(num_rows, num_columns)
    return x.new_empty(num_rows, num_columns + PAD)[:, :num_columns]
