"""The first pass of a softmax loss over its logits: what it wants of a chunk, and the log-sum-exps that it ends in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.chunked.lse import LogSumExp, reduce_exactly, sum_exponentials
from kernels.distributed import lse_over

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch.distributed import ProcessGroup

ListPairs = Callable[[slice], tuple[Tensor, Tensor]]
"""rows -> pairs (i, j), where i counts from the first of the rows"""


class FirstPass(NamedTuple):
    """Says what a loss wants of the pass over S that ends in the log-sum-exps."""

    read: Callable[[slice, Tensor], None] | None = None
    """is shown each chunk, which saves the loss a pass of its own"""
    without: ListPairs | None = None
    """lists the pairs that are left out"""
    exponential: bool = False
    """whether another pass only asks for LogSumExp.write_gradient: chunks that are kept then hold exp(S - reference)"""


PLAIN_PASS = FirstPass()


@runtime_checkable
class Reduced(Protocol):
    """Names what a reduction asks of kernels.chunked.logits.Logits, where it is documented."""

    x: Float[Tensor, "m d"]
    y: Float[Tensor, "n d"]

    def compute(self, rows: slice, S: Tensor) -> Tensor: ...
    def find_dropped(self, rows: slice, S: Tensor) -> tuple[Tensor, ...]: ...
    def find_kept(self, rows: slice) -> Tensor | None: ...
    def find_reference(self) -> float: ...
    def forget(self, starts: Iterable[int]) -> None: ...
    def in_turn(self, rows: slice, gate: Hashable = "") -> AbstractContextManager[None]: ...


class LseReduction:
    """Adds up the log-sum-exps of a pass over logits, chunk by chunk."""

    def __init__(self, logits: Reduced, first: FirstPass):
        self._logits, self._first = logits, first
        x, y = logits.x, logits.y
        self._row, self._column = x.new_empty(x.shape[0]), y.new_full((y.shape[0],), -torch.inf)
        self._exponentials: set[int] = set()
        self._reference = logits.find_reference()

    def add(self, rows: slice, S: Float[Tensor, "rows n"]) -> None:
        """Takes a chunk in, whose memory is overwritten where it is not kept, or kept as exponentials."""
        logits, (read, without, exponential) = self._logits, self._first
        if read is not None:
            read(rows, S)
        dropped, kept, hidden = logits.find_dropped(rows, S), logits.find_kept(rows) is not None, None
        if without is not None:
            hidden = (pairs := without(rows)), S[pairs]
            S[pairs] = -torch.inf
        overwrite = hidden is None and (not kept or (exponential and not dropped))
        if (found := sum_exponentials(S, self._reference, *dropped, overwrite=overwrite)) is None:
            found = reduce_exactly(logits.compute(rows, S) if overwrite else S, *dropped)
        elif overwrite and kept:
            self._exponentials.add(rows.start)
        if hidden is not None:  # S may be kept for the next pass
            S[hidden[0]] = hidden[1]
        # A row is whole in its chunk; a column is merged over the chunks here, and over the ranks at the end
        self._row[rows] = found[0]
        with logits.in_turn(rows):
            torch.logaddexp(self._column, found[1], out=self._column)

    def finish(self, group: ProcessGroup | None) -> LogSumExp:
        """Merges the columns over the ranks, when every chunk was taken in."""
        exponentials, column = self._exponentials, lse_over(group, self._column)
        found = LogSumExp(self._row, column, self._logits.find_dropped, exponentials, self._reference)
        if exponentials and found.reference != self._reference:  # rare: log-sum-exps that are far apart
            self._logits.forget(exponentials)
            exponentials.clear()
        return found
