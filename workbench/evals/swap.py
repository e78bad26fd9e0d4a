"""Swaps: does a fused embedding notice when one of its members is another sample's?

The trap: a fusion loss may be small because one member tells all. A fused vector of ITO that copies the text finds its
partner whatever the picture is, and nothing in its curve says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field
from torch import Tensor

from workbench.scoring.examples import Examples, Subset
from workbench.scoring.ranking import best_ranks
from workbench.scoring.sides import refuse_untrained
from workbench.scoring.splits import refuse_missing_splits
from workbench.seeds import generator
from workbench.types import Context, Data, Objective, Side, View

__all__ = ["Swap"]


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Retrieval by a fused side, one of whose members comes from another sample: each member in turn.

    With member m swapped the fused vector searches the unswapped ones of all samples. `{m}_kept` is the share of
    queries whose nearest is the sample that the other members come from, `{m}_followed` that of the swapped one's, and
    `{m}_cosine` the mean cosine of a vector with and without the swap. A member that is read moves the vector: where
    `kept` is near 1, and the cosine too, the fusion does not need it. With `candidates`, `r1` and `{m}_r1` are the
    recall of that modality without and with the swap; `chance` is that of a random candidate.

    Args:
        side: the fused side, as `image+text`
        candidates: a modality that it searches, as the third one of ConFu; default: the fused side itself
        split: evaluation split of the data set
        limit: samples, at most, drawn by the run's seed

    Raises ValueError when the side is not fused, does not fit the split, or has fewer than two ids.
    """

    side: str = "image+text"
    candidates: str | None = None
    split: str = "validation"
    limit: Annotated[int, Field(ge=2)] = 2000

    def check(self, objective: Objective, data: Data) -> None:
        fused = self._fused()
        refuse_untrained(objective, fused, *([Side.parse(self.candidates)] if self.candidates else []))
        refuse_missing_splits(data, self.split)
        if self.candidates and set(Side.parse(self.candidates).members) & set(fused.members):
            raise ValueError(f"swap: '{self.candidates}' is a member of '{self.side}', and would find itself")

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` yields."""
        members = self._fused().members
        if self.candidates:
            return ["r1", *(f"{m}_r1" for m in members), "chance"]
        return [*(f"{m}_{fact}" for m in members for fact in ("kept", "followed", "cosine")), "chance"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        fused = self._fused()
        examples = self._examples(context, fused)
        order = torch.randperm(len(examples.ids), generator=generator(context.seed, "swap"))
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)  # one circle through all samples, so that nobody is its own partner
        whole = examples.embed(context)
        targets = None
        if self.candidates:
            found = Examples.of(context.data.split(self.split), Side.parse(self.candidates))
            targets = found.embed(context), found.ids
        if targets:
            yield "r1", self._recall(context, whole, examples.ids, targets)
        for member in fused.members:
            raw = examples.raw | {member: Subset(examples.raw[member], partner.tolist())}
            swapped = context.embed(raw, [fused])[fused]
            if targets:
                yield f"{member}_r1", self._recall(context, swapped, examples.ids, targets)
                continue
            pool = (whole, examples.ids)
            yield f"{member}_kept", self._recall(context, swapped, examples.ids, pool)
            yield f"{member}_followed", self._recall(context, swapped, examples.ids[partner], pool)
            yield f"{member}_cosine", (swapped.z[:, 0] * whole.z[:, 0]).sum(1).double().mean().item()
        yield "chance", 1 / len(targets[1] if targets else examples.ids)

    def _fused(self) -> Side:
        side = Side.parse(self.side)
        if len(side.members) < 2:
            raise ValueError(f"swap: '{self.side}' has one member, of which nothing can be swapped: name a fused side")
        return side

    def _examples(self, context: Context, fused: Side) -> Examples:
        """Choose samples, the first of each id: two of one id would be no swap."""
        examples = Examples.of(context.data.split(self.split), fused)
        first = torch.from_numpy(np.unique(examples.ids.numpy(), return_index=True)[1])
        if len(first) < 2:
            raise ValueError(f"swap: split '{self.split}' has one id of {fused}, and a swap needs two")
        chosen = first[torch.randperm(len(first), generator=generator(context.seed, "swap", "limit"))]
        return examples.take(chosen[: self.limit].sort().values)

    def _recall(
        self, context: Context, query: View, ids: Int64[Tensor, " q"], pool: tuple[View, Int64[Tensor, " c"]]
    ) -> float:
        """Compute the share of queries whose nearest candidate has their id."""
        candidates, known = pool
        there = torch.isin(ids, known)
        if not there.any():
            raise ValueError(f"swap: no sample of split '{self.split}' shares its id with a {self.candidates}")
        asked = View(query.z[there], query.valid[there])
        target = Side.parse(self.candidates or self.side)
        ranks = best_ranks(context.objective.score, {self._fused(): asked}, {target: candidates}, ids[there], known)
        return (ranks == 1).double().mean().item()
