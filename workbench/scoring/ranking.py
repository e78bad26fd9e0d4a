"""Ranks of the right candidates, a chunk of queries at a time: the whole score matrix never exists.

The trap: a positive is known by its id, never by its score. Code that marks positives by `score > 0` loses the
ones with a negative cosine, and its recall is quietly too low.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from workbench.types import View, Views


def take(views: Views, rows: slice | Int64[Tensor, " m"]) -> Views:
    """Keep these samples of every side."""
    return {side: View(view.z[rows], view.valid[rows]) for side, view in views.items()}


@torch.no_grad()
def best_ranks(
    score: Callable[[Views, Views], Tensor],
    query: Views,
    candidates: Views,
    query_ids: Int64[Tensor, " q"],
    candidate_ids: Int64[Tensor, " c"],
    chunk: int = 1024,
) -> Int64[Tensor, " q"]:
    """Find the rank (1 = top) of each query's best positive: the highest candidate whose id equals the query's.

    Of equal scores the lower index ranks above. Every query must have a positive.
    Raises ValueError when a score is NaN.
    """
    index = torch.arange(len(candidate_ids))
    ranks = []
    for scores, positive in _with_positives(score, query, candidates, query_ids, candidate_ids, chunk):
        assert positive.any(1).all(), "a query without a positive has no rank"
        best = scores.masked_fill(~positive, -torch.inf).amax(1, keepdim=True)
        # argmax returns the first maximum; `positive` again, as a negative may tie with (or both be -inf)
        first = (positive & (scores == best)).int().argmax(1, keepdim=True)
        above = (scores > best) | ((scores == best) & (index < first))
        ranks.append(1 + above.sum(1))
    return torch.cat(ranks)


@torch.no_grad()
def average_precision(
    score: Callable[[Views, Views], Tensor],
    query: Views,
    candidates: Views,
    query_ids: Int64[Tensor, " q"],
    candidate_ids: Int64[Tensor, " c"],
    k: int,
    chunk: int = 1024,
) -> Float64[Tensor, " q"]:
    """Compute each query's average precision among its top k, as DCASE's language-based audio retrieval has it.

    It is the sum of the precisions at those ranks up to k that a positive has, over min(p, k) of p positives: 1 where
    all that fit are on top, 1 / rank where there is one. Ties and errors are those of `best_ranks`.
    """
    found = []
    for scores, positive in _with_positives(score, query, candidates, query_ids, candidate_ids, chunk):
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        hits = positive.gather(1, order).double()
        precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
        found.append((precision * hits).sum(1) / positive.sum(1).clamp(max=k))
    return torch.cat(found)


def scored(
    score: Callable[[Views, Views], Tensor], query: Views, candidates: Views, chunk: int
) -> Iterator[Float[Tensor, "m c"]]:
    """Score a chunk of queries at a time with all candidates. Raises ValueError for NaN."""
    for start in range(0, len(next(iter(query.values())).z), chunk):
        scores = score(take(query, slice(start, start + chunk)), candidates)
        if scores.isnan().any():
            raise ValueError(
                f"scores of queries {start} to {start + len(scores) - 1} contain NaN: "
                "check that the model's weights and the objective's scale are finite"
            )
        yield scores


def _with_positives(
    score: Callable[[Views, Views], Tensor],
    query: Views,
    candidates: Views,
    query_ids: Int64[Tensor, " q"],
    candidate_ids: Int64[Tensor, " c"],
    chunk: int,
) -> Iterator[tuple[Float[Tensor, "m c"], Bool[Tensor, "m c"]]]:
    """Score a chunk of queries at a time, and tell which candidates are right."""
    for scores, ids in zip(scored(score, query, candidates, chunk), query_ids.split(chunk), strict=True):
        yield scores, ids[:, None] == candidate_ids


def num_positives(query_ids: Int64[Tensor, " q"], candidate_ids: Int64[Tensor, " c"]) -> Int64[Tensor, " q"]:
    """Count the candidates that have each query's id."""
    ids, counts = candidate_ids.unique(return_counts=True)
    at = torch.searchsorted(ids, query_ids).clamp(max=len(ids) - 1)
    return torch.where(ids[at] == query_ids, counts[at], 0)


def chance_recall(positives: Int64[Tensor, " q"], num_candidates: int, k: int) -> Float64[Tensor, " q"]:
    """Compute the probability that a random ranking of c candidates has one of p positives in its top k:
    1 - C(c-p,k) / C(c,k)."""
    drawn = torch.arange(min(k, num_candidates))
    left = num_candidates - drawn.double()
    return 1 - ((left - positives[:, None]).clamp(min=0) / left).prod(1)


def chance_average_precision(positives: Int64[Tensor, " q"], num_candidates: int, k: int) -> Float64[Tensor, " q"]:
    """Compute the expected average precision at k of a random ranking of c candidates, p of them right.

    A rank r holds a positive with probability p / c, and then (r - 1)(p - 1) / (c - 1) more are expected above it.
    """
    p, rank = positives.double()[:, None], torch.arange(1, min(k, num_candidates) + 1).double()
    above = (rank - 1) * (p - 1) / max(num_candidates - 1, 1)
    return (p / num_candidates * (1 + above) / rank).sum(1) / positives.clamp(max=k)
