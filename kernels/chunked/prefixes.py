"""A loss of several prefixes of the dimensions (Matryoshka, arXiv 2205.13147) from one pass over their products.

Letters: x_i, y_j are the rows as given; prefix k is their first d_k dimensions, and block k those that it has more than
the one before; r_i and c_j are 1 over the lengths of its rows, 1 where it is the whole; the loss is sum_k w_k L_k.

 1. R^k_ij = <x_i, y_j> over prefix k is R^(k-1)_ij and the product of block k, so that all prefixes take the products
    of one. Their logits are S^k_ij = t r_i R^k_ij c_j.
 2. With G^k = dL_k/dS^k,  A^k_ij = w_k r_i G^k_ij c_j  is the gradient in t R^k. Block k is in every prefix from k on:
    dL/dX = t F^k Y and dL/dY = t F^kT X in its dimensions, with F^k = sum_(l >= k) A^l. From the longest prefix to the
    shortest A is added to F, so that a block takes one product a side.
 3. r_i changes with x_i by -r_i^3 x_i: t r_i^2 q_i x_i is taken from dL/dx_i on prefix k, with
    q_i = sum_j A^k_ij R^k_ij, and from columns likewise.
 4. dL/dt = sum_k sum_ij A^k_ij R^k_ij, which is <F Y, X> over all blocks.
 5. What is linear in the logits (kernels.linear) never meets R. Its gradient is found in unit rows, and brought through
    their lengths: O((M + N) D) a prefix.

The first pass needs one R at a time; the second all of a chunk, as shorter prefixes come last there: memory is that of
one loss and of as many chunks as there are prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.autograd import Gradients
from kernels.chunked import rows_only, softmax
from kernels.chunked.contrast import Contrast
from kernels.chunked.logits import ByChunk, Logits, count_rows, make_room
from kernels.chunked.lse import LogSumExp
from kernels.chunked.prefix import Prefix, Side, Weights
from kernels.chunked.reduction import FirstPass, LseReduction
from kernels.chunked.sigmoid import Sigmoid, weigh_pairs
from kernels.chunked.threads import Turns

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch.distributed import ProcessGroup


def infonce(contrast: Contrast) -> tuple[Float[Tensor, ""], Gradients]:
    """Computes the sum over prefixes of kernels.multi_positive_infonce, and its wanted gradients."""
    problem, P, group = contrast.problem, contrast.P, contrast.problem.group
    prefixes, means = Prefixes(contrast), softmax.weigh(contrast)
    if problem.symmetric:
        begun = [softmax.begin(problem.positives, prefix.logits, P, means, group) for prefix in prefixes.each]
        reduced = prefixes.reduce_each([first for first, _ in begun], group)
        losses = [solve(lse) for (_, solve), lse in zip(begun, reduced, strict=True)]
    else:
        losses = [rows_only.begin(problem.positives, prefix.logits, P, means, group) for prefix in prefixes.each]
    if any(problem.wanted) or not problem.symmetric:  # the value of rows alone comes from the same pass
        prefixes.multiply_gradients([loss.gradient for loss in losses])
    value = torch.zeros_like(prefixes.t)
    for prefix, loss in zip(prefixes.each, losses, strict=True):
        share, finishes = loss.value(), [loss.finish] if loss.finish else []
        if problem.label_smoothing:
            smoothed, finish = softmax.smooth(contrast, prefix.logits, means)
            share, finishes = share - smoothed, [*finishes, finish]
        value.add_(prefix.weight * share)
        prefix.add_linear(finishes, problem.wanted)
    return value, prefixes.make_gradients()


def sigmoid(contrast: Contrast) -> tuple[Float[Tensor, ""], Gradients]:
    """Computes the sum over prefixes of kernels.multi_positive_sigmoid, and its wanted gradients."""
    wanted, (w, v) = contrast.problem.wanted, weigh_pairs(contrast)
    prefixes = Prefixes(contrast, (w, v))
    losses = [Sigmoid(contrast, prefix.logits, w, v) for prefix in prefixes.each]
    prefixes.multiply_gradients([loss.write_gradient for loss in losses])
    value, db = torch.zeros_like(prefixes.t), torch.zeros_like(prefixes.t)
    for prefix, loss in zip(prefixes.each, losses, strict=True):
        share, share_db = loss.complete()
        value.add_(prefix.weight * share)
        db.add_(prefix.weight * share_db)
        prefix.add_linear([] if contrast.P.few else [loss.finish], wanted)
    return value, prefixes.make_gradients()._replace(bias=db if wanted.bias else None)


class Prefixes(Logits):
    """Computes R of every prefix by chunks of rows, from the shortest prefix on, and the products of F."""

    def __init__(self, contrast: Contrast, weights: Weights | None = None):
        problem = contrast.problem
        super().__init__(contrast.rows.z, contrast.columns.z, problem.scale)
        sizes = sorted(zip(problem.prefixes, problem.prefix_weights, strict=True))
        assert len(sizes) > 1  # one prefix is a loss of its own
        self.each = [Prefix(contrast, size, weight, weights) for size, weight in sizes]
        self._blocks = [slice(start, stop) for start, stop in pairwise([0, *(size for size, _ in sizes)])]
        self._contrast, self._FY, self._FX = contrast, None, None
        self._rooms: list[list[Tensor]] = []

    def begin_pass(self, turns: Turns, place: int = 0) -> None:
        """Has the logits of all prefixes take the same turns, at gates of their own."""
        super().begin_pass(turns, place)
        for k, prefix in enumerate(self.each):
            prefix.logits.begin_pass(turns, place + k + 1)

    def _compute_each(
        self, rows: slice, rooms: Sequence[Float[Tensor, "rows n"]], *, keep: bool = False
    ) -> Iterator[Float[Tensor, "rows n"]]:
        """Yields R of these rows for every prefix, by step 1, and in the place of the whole's R its logits.

        The rooms may all be the same. With `keep` the logits of the whole stay for the next pass, as those of one loss
        do; shorter prefixes are computed again, as all of them would take as much memory as so many losses.
        """
        shorter = None
        for prefix, block, R in zip(self.each, self._blocks, rooms, strict=True):
            logits, x, y = prefix.logits, self.x[rows, block], self.y[:, block].T
            if shorter is None:
                yield (shorter := torch.mm(x, y, out=R))
            elif not prefix.whole:
                yield (shorter := torch.addmm(shorter, x, y, out=R))
            elif (S := logits.find_kept(rows)) is not None:
                yield S
            else:
                # R of the whole are its cosines, which no other prefix needs: their scale is part of the product
                kept, t = logits.make_kept(rows) if keep else None, float(logits.factor)
                yield logits.amend(rows, torch.addmm(shorter, x, y, beta=t, alpha=t, out=R if kept is None else kept))

    @contextmanager
    def _borrow_rooms(self, rows: slice) -> Iterator[list[Float[Tensor, "rows n"]]]:
        """Lends memory for R of every prefix and two matrices more; chunks take turns in it."""
        num_columns = self.y.shape[0]
        num_rows = min(count_rows(num_columns), self.x.shape[0])
        try:
            rooms = self._rooms.pop()
        except IndexError:
            rooms = [make_room(self.x, num_rows, num_columns) for _ in range(len(self.each) + 2)]
        yield [room[: rows.stop - rows.start] for room in rooms]
        self._rooms.append(rooms)

    def reduce_each(self, firsts: Sequence[FirstPass], group: ProcessGroup | None) -> list[LogSumExp]:
        """Computes the log-sum-exps of every prefix's logits in one pass."""
        reductions = [LseReduction(prefix.logits, first) for prefix, first in zip(self.each, firsts, strict=True)]

        def reduce(rows: slice) -> None:
            with self._borrow_rooms(rows) as (R_room, S_room, *_):
                every = self._compute_each(rows, [R_room] * len(self.each), keep=True)
                for prefix, reduction, R in zip(self.each, reductions, every, strict=True):
                    reduction.add(rows, prefix.write_logits(rows, R, S_room))

        self.each_slice(reduce)
        return [reduction.finish(group) for reduction in reductions]

    def multiply_gradients(self, gradients: Sequence[ByChunk]) -> None:
        """Computes F Y and F^T X in one pass, where they are wanted, by steps 2 and 3."""
        wanted = self._contrast.problem.wanted
        # What is beyond the longest prefix has no gradient
        make = torch.empty_like if self.each[-1].whole else torch.zeros_like
        self._FY = make(self.x) if wanted.x or wanted.scale else None
        self._FX = make(self.y) if wanted.y else None

        def multiply(rows: slice) -> None:
            with self._borrow_rooms(rows) as (F_room, G_room, *rooms):
                F, every = None, list(self._compute_each(rows, rooms))
                longest_first = reversed([*zip(self.each, gradients, self._blocks, every, strict=True)])
                for prefix, gradient, block, R in longest_first:
                    G = gradient(rows, prefix.write_logits(rows, R, F_room if F is None else G_room))
                    if any(wanted):
                        F = prefix.add_gradient(rows, G, R, F)
                        self.add_products(rows, F, (self.y, self.x), (self._FY, self._FX), block)

        self.each_slice(multiply)

    def make_gradients(self) -> Gradients:
        """Makes (dL/dx, dL/dy, dL/dscale) of all items."""
        wanted, rows, columns = self._contrast.problem.wanted, self._contrast.rows, self._contrast.columns
        dx, dy, dt = self._FY, self._FX, None
        if wanted.scale and dx is not None:
            dt = (dx * self.x).sum() + torch.stack([prefix.dt for prefix in self.each]).sum()
        if wanted.x and dx is not None:
            self._finish(dx, self.x, [prefix.rows for prefix in self.each])
        if dy is not None:
            self._finish(dy, self.y, [prefix.columns for prefix in self.each])
        return Gradients(rows.restore_absent(dx if wanted.x else None), columns.restore_absent(dy), dt)

    def _finish(self, products: Float[Tensor, "n d"], z: Float[Tensor, "n d"], sides: Sequence[Side]) -> None:
        """Makes the gradient of one side out of its products, by step 3, and adds what is linear."""
        q = torch.zeros_like(sides[0].q)
        for block, side in reversed([*zip(self._blocks, sides, strict=True)]):
            if not side.whole:
                q.addcmul_(side.square, side.q)  # a block is in every prefix from its own on
                products[:, block].addcmul_(z[:, block], q[:, None], value=-1)
        products.mul_(self.t)
        for side in sides:
            if side.linear is not None:
                products[:, : side.size].add_(side.linear)
