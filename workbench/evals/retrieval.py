"""Retrieval between two sides, both ways: recall at k, median rank, and what chance would give.

The trap: with several captions an image has several right answers, and an evaluation on one-to-one pairs calls all
but one of them wrong. Numbers compare only between runs on the same candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import PositiveInt
from torch import Tensor

from workbench.examples import Examples
from workbench.ranking import best_ranks, chance_recall, num_positives, take
from workbench.types import Context, Split, Views

__all__ = ["Retrieval"]


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall at k, median rank and chance, as fractions of the queries (the rank counts from 1).

    A query is right at k when at least one candidate with its id is among its top k; of equal scores the lower
    index ranks above. Queries that no candidate matches are left out. `*_chance_r{k}` is the expected recall of a
    random ranking, exactly; `mean_recall` is the mean of all R@k of both directions.

    Args:
        query: side that asks; a fused side (`image+text`) needs a paired split
        candidates: side that is searched
        split: evaluation split of the data set
        captions: `all` items of a text side, or the `first` of each id
        k: how far down the ranking a right answer counts
        both_ways: search the query side with the candidates too
        chunk: queries scored at once; bounds the memory

    Raises ValueError when a side does not fit the split, no query has a match, or a score is NaN.
    """

    query: str = "image"
    candidates: str = "text"
    split: str = "validation"
    captions: Literal["first", "all"] = "all"
    k: tuple[PositiveInt, ...] = (1, 5, 10)
    both_ways: bool = True
    chunk: PositiveInt = 1024

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        split = context.data.split(self.split)
        ids, views = {}, {}
        for side in (self.query, self.candidates):
            examples = self._examples(context, split, side)
            ids[side], views[side] = examples.ids, {side: examples.embed(context)}
        there, back = (self.query, self.candidates), (self.candidates, self.query)
        recalls = []
        for query, candidates in (there, back) if self.both_ways else (there,):
            facts = self._direction(context, views[query], views[candidates], ids[query], ids[candidates])
            for name, value in facts.items():
                yield f"{query}_to_{candidates}_{name}", value
            recalls += [facts[f"r{k}"] for k in self.k]
        yield "mean_recall", float(np.mean(recalls))

    def _examples(self, context: Context, split: Split, name: str) -> Examples:
        examples = Examples.of(split, name)
        modality, *fused = examples.side.members
        if self.captions == "all" or fused or context.data.modalities[modality].kind != "text":
            return examples
        _, first = np.unique(examples.ids.numpy(), return_index=True)
        return examples.take(torch.from_numpy(np.sort(first)))

    def _direction(
        self,
        context: Context,
        query: Views,
        candidates: Views,
        query_ids: Int64[Tensor, " q"],
        candidate_ids: Int64[Tensor, " c"],
    ) -> dict[str, float]:
        positives = num_positives(query_ids, candidate_ids)
        matched = positives.nonzero().squeeze(1)
        if not len(matched):
            raise ValueError(
                f"none of {len(query_ids)} queries ({', '.join(query)}) shares its id with one of "
                f"{len(candidate_ids)} candidates ({', '.join(candidates)}): "
                f"give matching items equal ids in split '{self.split}'"
            )
        score = context.objective.score
        ranks = best_ranks(score, take(query, matched), candidates, query_ids[matched], candidate_ids, self.chunk)
        chance = {k: chance_recall(positives[matched], len(candidate_ids), k) for k in self.k}
        return {
            **{f"r{k}": (ranks <= k).double().mean().item() for k in self.k},
            "median_rank": float(np.median(ranks.numpy())),
            **{f"chance_r{k}": chance[k].mean().item() for k in self.k},
        }
