"""Retrieval against a sort of the whole score matrix, written without the machinery."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.component import validate
from workbench.evals.retrieval import Retrieval
from workbench.ranking import best_ranks, chance_recall, num_positives
from workbench.types import View


def sorted_ranks(scores: np.ndarray, query_ids: np.ndarray, candidate_ids: np.ndarray) -> list[int]:
    """Best positive of each query that has one, by sorting each row: descending score, then ascending index."""
    ranks = []
    for row, own in zip(scores, query_ids, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))
        places = [place for place, j in enumerate(order, 1) if candidate_ids[j] == own]
        ranks += places[:1]
    return ranks


def table(scores: torch.Tensor):
    """Views that name their row, and a score that looks it up: any score matrix at all can be ranked."""

    def views(n: int) -> dict[str, View]:
        return {"side": View(torch.arange(n).view(n, 1, 1).float(), torch.ones(n, 1, dtype=torch.bool))}

    def score(query, candidates):
        return scores[query["side"].z.flatten().long()][:, candidates["side"].z.flatten().long()]

    return score, views(scores.shape[0]), views(scores.shape[1])


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 3, 41, 1000]))
def test_ranks_with_ties_negatives_infinities_and_many_positives(seed, num_values, chunk):
    rng = np.random.default_rng(seed)
    q, c = rng.integers(1, 41), rng.integers(1, 41)
    values = np.append(-rng.random(num_values), -np.inf)  # few distinct scores, all negative: ties everywhere
    scores = rng.choice(values, (q, c))
    candidate_ids = rng.integers(0, 12, c)
    query_ids = rng.choice(candidate_ids, q)
    score, query, candidates = table(torch.from_numpy(scores))
    ranks = best_ranks(score, query, candidates, torch.from_numpy(query_ids), torch.from_numpy(candidate_ids), chunk)
    assert ranks.tolist() == sorted_ranks(scores, query_ids, candidate_ids)


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1), st.lists(st.integers(0, 6), min_size=1))
def test_num_positives_counts_equal_ids(query_ids, candidate_ids):
    counted = num_positives(torch.tensor(query_ids), torch.tensor(candidate_ids))
    assert counted.tolist() == [candidate_ids.count(i) for i in query_ids]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.data())
def test_chance_is_one_minus_a_ratio_of_binomials(num_candidates, k, data):
    p = data.draw(st.integers(1, num_candidates))
    drawn = min(k, num_candidates)
    expected = 1 - math.comb(num_candidates - p, drawn) / math.comb(num_candidates, drawn)
    assert chance_recall(torch.tensor([p]), num_candidates, k).item() == pytest.approx(expected, abs=1e-12)


def test_chance_is_the_recall_of_random_scores():
    """Ragged captions, every positive counted: Monte-Carlo recall within four standard errors."""
    rng = np.random.default_rng()
    trials, candidate_ids = 4000, np.repeat(np.arange(7), [1, 2, 5, 1, 3, 4, 2])
    scores = rng.random((trials * 7, len(candidate_ids)))
    ranks = np.array(sorted_ranks(scores, np.tile(np.arange(7), trials), candidate_ids)).reshape(trials, 7)
    positives = torch.from_numpy(np.bincount(candidate_ids))
    for k in (1, 5, 10):
        recall = (ranks <= k).mean(1)
        chance = chance_recall(positives, len(candidate_ids), k).mean().item()
        assert abs(recall.mean() - chance) < 4 * recall.std() / trials**0.5 + 1e-12


@pytest.mark.parametrize("captions", ["all", "first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_run_equals_brute_force(world, captions, dtype):
    """Ragged captions, duplicate images and texts, ids on one side only, cosines mostly negative."""
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(np.concatenate([rng.integers(0, 20, 37), [100, 101]]))
    text_ids = rng.permutation(np.concatenate([rng.integers(0, 20, 58), [200]]))
    # entries of ±1/2 in four dimensions: unit rows whose cosines are exact multiples of 1/2, so ties are exact too
    images = torch.from_numpy(rng.choice([-0.5, 0.5], (len(image_ids), 4), p=[0.2, 0.8])).to(dtype)
    texts = torch.from_numpy(rng.choice([-0.5, 0.5], (len(text_ids), 4), p=[0.8, 0.2])).to(dtype)
    context = world({"image": (images, image_ids), "text": (texts, text_ids)})
    got = dict(Retrieval(captions=captions, k=(1, 3, 10), chunk=7).run(context))

    keep = np.arange(len(text_ids))
    if captions == "first":
        keep = np.array([j for j in keep if text_ids[j] not in text_ids[:j]])
    scores = (images @ texts[keep].T).numpy()
    recalls = []
    for way, s, a, b in (
        ("image_to_text", scores, image_ids, text_ids[keep]),
        ("text_to_image", scores.T, text_ids[keep], image_ids),
    ):
        ranks = np.array(sorted_ranks(s, a, b))
        assert got[f"{way}_median_rank"] == np.median(ranks), seed
        for k in (1, 3, 10):
            recalls.append((ranks <= k).mean())
            assert got[f"{way}_r{k}"] == pytest.approx(recalls[-1], abs=1e-12), seed
        positives = np.array([(b == i).sum() for i in a])
        expected = (positives[positives > 0] / len(b)).mean()
        assert got[f"{way}_chance_r1"] == pytest.approx(expected, abs=1e-12), seed
    assert got["mean_recall"] == pytest.approx(np.mean(recalls), abs=1e-12), seed
    assert len(got) == 2 * 7 + 1


def test_one_way_and_a_perfect_model(world):
    x = torch.eye(12)
    context = world({"image": (x, range(12)), "text": (x, range(12))})
    got = dict(Retrieval(both_ways=False).run(context))
    assert got == pytest.approx(
        {f"image_to_text_r{k}": 1 for k in (1, 5, 10)}
        | {f"image_to_text_chance_r{k}": k / 12 for k in (1, 5, 10)}
        | {"image_to_text_median_rank": 1, "mean_recall": 1}
    )


def test_a_fused_query_needs_paired_rows(world):
    """The sum of two one-hot halves points at its target; neither half does alone."""
    a, b = torch.eye(9)[torch.arange(9) // 3], torch.eye(9)[3 + torch.arange(9) % 3]
    items = {"a": (a, range(9)), "b": (b, range(9)), "c": (a + b, range(9))}
    evaluate = Retrieval(query="a+b", candidates="c", k=(1,))
    assert dict(evaluate.run(world(items, paired=True)))["a+b_to_c_r1"] == 1
    assert dict(Retrieval(query="a", candidates="c", k=(1,)).run(world(items)))["a_to_c_r1"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="does not pair"):
        list(evaluate.run(world(items)))


def test_refusals(world):
    x = torch.eye(3)
    with pytest.raises(ValueError, match="none of 3 queries"):
        list(Retrieval().run(world({"image": (x, [1, 2, 3]), "text": (x, [4, 5, 6])})))
    with pytest.raises(ValueError, match="this split has image"):
        list(Retrieval().run(world({"image": (x, [1, 2, 3])})))
    with pytest.raises(ValueError, match="NaN"):
        list(Retrieval().run(world({"image": (x, [1, 2, 3]), "text": (x * torch.nan, [1, 2, 3])})))


def test_first_caption_is_of_text_only_and_order_is_kept(world):
    """Two drawings of a concept stay two queries; the caption kept is the first in the list."""
    images, texts = torch.eye(2)[[0, 0, 1]], torch.eye(2)[[0, 1, 1, 0]]
    context = world({"image": (images, [7, 7, 3]), "text": (texts, [7, 7, 3, 3])})
    got = dict(Retrieval(captions="first", k=(1,)).run(context))
    assert got["image_to_text_r1"] == got["text_to_image_r1"] == 1
    assert got["image_to_text_chance_r1"] == pytest.approx(1 / 2)
    assert got["text_to_image_chance_r1"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_the_recipe_reads_its_arguments():
    spec = validate("eval", {"name": "retrieval", "query": "image+text", "candidates": "audio", "k": [1, 2]})
    assert spec.build() == Retrieval(query="image+text", candidates="audio", k=(1, 2))
    with pytest.raises(ValueError, match="did you mean 'captions'"):
        validate("eval", {"name": "retrieval", "caption": "all"})
    with pytest.raises(ValueError, match="k"):
        validate("eval", {"name": "retrieval", "k": [0]})
