"""Retrieval between sides, every way that the objective can ask: recall at k, median rank, and what chance would give.

The trap: with several captions an image has several right answers, and an evaluation on one-to-one pairs calls all
but one of them wrong. Numbers compare only between runs on the same candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field, PositiveInt
from torch import Tensor

from workbench.scoring.examples import Examples, one_class_of_each
from workbench.scoring.ranking import (
    average_precision,
    best_ranks,
    chance_average_precision,
    chance_recall,
    num_positives,
    take,
)
from workbench.scoring.sides import compared, refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.types import Context, Data, Objective, Side, Split, Views

__all__ = ["Retrieval"]


class Way(NamedTuple):
    """One direction of search: sides made of the asking modalities against one side of the target."""

    name: str
    asking: tuple[str, ...]
    sides: tuple[Side, ...]
    target: tuple[str, ...]
    candidates: Side


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall at k, median rank and chance, as fractions of the queries (the rank counts from 1).

    By default every modality is searched by every other and by every two others together, and by more where the
    objective fuses them or they are all the others: `image_to_text_r1`, `image+text_to_audio_r1`. The query is formed
    as the objective forms it: a fused side (ConFu), a product (Symile), a mean of cosines (CLIP). Its rows are those of
    the first modality, each with the items of its own sample (else the first of its id) of the others.

    A query is right at k when at least one candidate with its id is among its top k; of equal scores the lower
    index ranks above. Queries that no candidate matches, and those that lack a modality of several that ask together,
    are left out; `*_left_out` is their number, where there are any. `*_chance_r{k}` is the expected recall of a random
    ranking, exactly; `mean_recall` is the mean of all R@k of all ways, and where several modalities ask
    together, `mean_recall_{m}_to_1` that of the ways in which m do. With `map_at`, `*_map10` is the mean average
    precision among the top 10, which counts every right candidate (DCASE's language-based audio retrieval).

    Args:
        query: side that asks (`image`, `image+text`); default: every set of modalities
        candidates: side that is searched; default: every modality that the query lacks
        split: evaluation split of the data set
        captions: `all` items of a text side, or the `first` of each id
        k: how far down the ranking a right answer counts
        map_at: how far down the mean average precision looks, as 10; default: it is not computed
        together: how many modalities ask at once, as [1, 2]; default as said above
        both_ways: search the query side with the candidates too; by default, each modality with those after it too
        same: by which label an item of a modality is right, in the place of its id, as {text: sum}: any text of the
            query's class is then a right answer
        chunk: queries scored at once; bounds the memory

    Raises ValueError when a side does not fit the split, nothing can ask, no query has a match, or a score is NaN.
    """

    query: str | None = None
    candidates: str | None = None
    split: str = "validation"
    captions: Literal["first", "all"] = "all"
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 10)
    map_at: PositiveInt | None = None
    together: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    both_ways: bool = True
    same: Mapping[str, str] | None = None
    chunk: PositiveInt = 1024

    def check(self, objective: Objective, data: Data) -> None:
        for way in self._ways(objective):
            if self.query and self.candidates:
                refuse_untrained(objective, *way.sides, way.candidates)
            if shared := sorted({m for side in way.sides for m in side.members} & set(way.candidates.members)):
                raise ValueError(f"'{shared[0]}' is searched with itself ({way.name}): every item would find itself")
        refuse_missing_splits(data, self.split)
        if unknown := set(self.same or ()) - {m for way in self._ways(objective) for m in way.target}:
            raise ValueError(f"same: nothing searches for {', '.join(sorted(unknown))}: name modalities that are found")
        for label in (self.same or {}).values():
            refuse_missing_label(data, label)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield. Raises ValueError when nothing can ask."""
        ways = self._ways(objective)
        facts = [*(f"r{k}" for k in self.k), "median_rank", *(f"chance_r{k}" for k in self.k), "left_out"]
        facts += [f"map{self.map_at}", f"chance_map{self.map_at}"] if self.map_at else []
        sizes = dict.fromkeys(len(way.asking) for way in ways)
        means = [f"mean_recall_{size}_to_1" for size in sizes] if len(sizes) > 1 else []
        return [*(f"{way.name}_{fact}" for way in ways for fact in facts), "mean_recall", *means]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        split = context.data.split(self.split)
        ways = self._ways(context.objective)
        sides: dict[tuple[str, ...], dict[Side, None]] = {}  # of each set of rows, in order
        for way in ways:
            sides.setdefault(way.asking, {}).update(dict.fromkeys(way.sides))
            sides.setdefault(way.target, {})[way.candidates] = None
        examples = {members: self._examples(context, split, members) for members in sides}
        views = {members: examples[members].views(context, list(needed)) for members, needed in sides.items()}

        recalls: dict[int, list[float]] = {}
        for way in ways:
            query = {side: views[way.asking][side] for side in way.sides}
            candidates = {way.candidates: views[way.target][way.candidates]}
            query_ids = self._right(examples[way.asking], way.target, unlabelled=-1)
            candidate_ids = self._right(examples[way.target], way.target, unlabelled=-2)  # which match none
            facts = self._direction(context, query, candidates, query_ids, candidate_ids)
            if left_out := examples[way.asking].left_out + facts.pop("left_out"):
                yield f"{way.name}_left_out", left_out
            for name, value in facts.items():
                yield f"{way.name}_{name}", value
            recalls.setdefault(len(way.asking), []).extend(facts[f"r{k}"] for k in set(self.k))
        yield "mean_recall", float(np.mean([recall for found in recalls.values() for recall in found]))
        if len(recalls) > 1:
            for size, found in recalls.items():
                yield f"mean_recall_{size}_to_1", float(np.mean(found))

    def _right(self, examples: Examples, target: tuple[str, ...], unlabelled: int) -> Int64[Tensor, " n"]:
        """Give what a right answer shares with its query: the id, or the label that `same` names of the target.

        Raises ValueError where the split has no such label, or it is no class of each item.
        """
        label = (self.same or {}).get("+".join(target))
        if label is None:
            return examples.ids
        if label not in examples.targets:
            have = ", ".join(examples.targets) or "none"
            raise ValueError(f"split '{self.split}' has no labels named '{label}': it has {have}")
        labels = one_class_of_each(examples.targets[label], label)
        return labels.where(labels >= 0, unlabelled)

    def _ways(self, objective: Objective) -> list[Way]:
        if self.query and self.candidates:  # the sides as they are written
            there = (self.query, self.candidates)
            ways = [Way(f"{x}_to_{y}", *_as_written(objective, x, y)) for x, y in (there, there[::-1])]
            return ways if self.both_ways else ways[:1]
        aligned = objective.modalities or dict.fromkeys(m for side in objective.all_sides for m in side.members)
        known = tuple(aligned)
        ways = [
            Way(f"{'+'.join(asking)}_to_{target}", asking, asked.query, (target,), asked.candidates)
            for size in range(1, len(known))
            for asking in combinations(known, size)
            for target in known
            if target not in asking
            and (self.both_ways or known.index(asking[-1]) < known.index(target))
            and self._wants(asking, target)
            and (asked := objective.ask(asking, target))
            and self._counts(asked.query, size, len(known))
        ]
        if not ways:
            raise ValueError(
                f"retrieval: no way to ask with query={self.query}, candidates={self.candidates} and "
                f"together={self.together} among the modalities that the objective aligns: {', '.join(known)}"
            )
        return ways

    def _wants(self, asking: tuple[str, ...], target: str) -> bool:
        asked = self.query is None or set(Side.parse(self.query).members) == set(asking)
        return asked and self.candidates in (None, target)

    def _counts(self, sides: tuple[Side, ...], size: int, known: int) -> bool:
        """Whether so many modalities are to ask together, by these sides."""
        if self.together is not None:
            return size in self.together
        whole = len(sides) == 1 and len(sides[0].members) == size
        return size <= 2 or whole or size == known - 1 or self.query is not None

    def _examples(self, context: Context, split: Split, members: tuple[str, ...]) -> Examples:
        examples = Examples.of(split, Side.joining(members))
        if self.captions == "all" or context.data.modalities[members[0]].kind != "text":
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
                f"none of {len(query_ids)} queries ({', '.join(map(str, query))}) shares its id with one of "
                f"{len(candidate_ids)} candidates ({', '.join(map(str, candidates))}): "
                f"give matching items equal ids in split '{self.split}'"
            )
        asked = (context.objective.score, take(query, matched), candidates, query_ids[matched], candidate_ids)
        ranks = best_ranks(*asked, self.chunk)
        chance = {k: chance_recall(positives[matched], len(candidate_ids), k) for k in sorted(set(self.k))}
        facts = {
            **{f"r{k}": (ranks <= k).double().mean().item() for k in chance},
            "median_rank": float(np.median(ranks.numpy())),
            "left_out": len(query_ids) - len(matched),
            **{f"chance_r{k}": expected.mean().item() for k, expected in chance.items()},
        }
        if self.map_at:
            expected = chance_average_precision(positives[matched], len(candidate_ids), self.map_at)
            facts[f"map{self.map_at}"] = average_precision(*asked, self.map_at, self.chunk).mean().item()
            facts[f"chance_map{self.map_at}"] = expected.mean().item()
        return facts


def _as_written(
    objective: Objective, x: str, y: str
) -> tuple[tuple[str, ...], tuple[Side, ...], tuple[str, ...], Side]:
    """Read one direction between two named sides: the modalities that ask, their side, the target, its side."""
    asking, candidates = compared(objective, x, y)
    return asking.members, (asking,), candidates.members, candidates
