"""Retrieval against a sort of the whole score matrix, written without the machinery."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.evals.retrieval import Retrieval
from workbench.objectives.clip import CLIP
from workbench.objectives.comm import CoMM
from workbench.objectives.confu import ConFu
from workbench.objectives.confu_chain import ConFuChain
from workbench.objectives.hub import Hub
from workbench.objectives.symile import Symile
from workbench.recipe.component import validate
from workbench.scoring.ranking import best_ranks, chance_average_precision, chance_recall, num_positives
from workbench.types import Objective, Side, View


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        assert got[f"{way}_left_out"] == (positives == 0).sum() > 0, seed
    assert got["mean_recall"] == pytest.approx(np.mean(recalls), abs=1e-12), seed
    assert len(got) == 2 * 8 + 1


def average_precision_at(row: np.ndarray, right: np.ndarray, k: int) -> float:
    """Average precision at k as DCASE writes it, one query at a time: precision is counted anew at every rank."""
    order = sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]
    hits = [bool(right[j]) for j in order]
    return sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / min(int(right.sum()), k)


@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_mean_average_precision_equals_one_query_at_a_time(world, k):
    """Five captions and more a sound, ties, queries that nothing matches."""
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    sound_ids = np.append(rng.permutation(12), 99)
    text_ids = rng.permutation(np.append(np.repeat(range(12), rng.integers(1, 14, 12)), 200))
    sounds, texts = (torch.from_numpy(rng.choice([-0.5, 0.5], (len(i), 4))) for i in (sound_ids, text_ids))
    context = world({"sound": (sounds, sound_ids), "text": (texts, text_ids)})
    evaluator = Retrieval(map_at=k, chunk=5)
    got = dict(evaluator.run(context))
    assert set(got) == set(evaluator.names(context.objective))
    scores = (sounds @ texts.T).numpy()
    for way, s, a, b in (
        ("sound_to_text", scores, sound_ids, text_ids),
        ("text_to_sound", scores.T, text_ids, sound_ids),
    ):
        of_each = [average_precision_at(row, b == own, k) for row, own in zip(s, a, strict=True) if own in b]
        assert got[f"{way}_map{k}"] == pytest.approx(np.mean(of_each), abs=1e-12), seed
    assert got["mean_recall"] == dict(Retrieval().run(context))["mean_recall"], "it is no recall"


def test_average_precision_of_one_caption_in_four_ranks(world):
    """One right answer at rank 2 of 4 is 1/2; three of them at ranks 1, 3 and 4 are (1 + 2/3 + 3/4) / 3."""
    x = torch.tensor([[1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    one = world({"sound": (x, [7]), "text": (texts, [1, 7, 2, 3])})
    three = world({"sound": (x, [7]), "text": (texts, [7, 1, 7, 7])})
    ask = Retrieval(query="sound", candidates="text", both_ways=False, map_at=10)
    assert dict(ask.run(one))["sound_to_text_map10"] == pytest.approx(1 / 2)
    assert dict(ask.run(three))["sound_to_text_map10"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


@pytest.mark.parametrize(("p", "c", "k"), [(1, 1, 10), (1, 6, 10), (2, 6, 3), (3, 6, 1), (5, 6, 4), (6, 6, 10)])
def test_chance_of_average_precision_is_the_mean_over_all_rankings(p, c, k):
    rankings = [np.isin(range(c), places) for places in combinations(range(c), p)]
    mean = np.mean([average_precision_at(-np.arange(c), right, k) for right in rankings])
    assert chance_average_precision(torch.tensor([p]), c, k).item() == pytest.approx(mean, abs=1e-12)


def test_one_way_and_a_perfect_model(world):
    x = torch.eye(12)
    context = world({"image": (x, range(12)), "text": (x, range(12))})
    got = dict(Retrieval(both_ways=False).run(context))
    assert got == pytest.approx(
        {f"image_to_text_r{k}": 1 for k in (1, 5, 10)}
        | {f"image_to_text_chance_r{k}": k / 12 for k in (1, 5, 10)}
        | {"image_to_text_median_rank": 1, "mean_recall": 1}
    )


@pytest.mark.parametrize("paired", [True, False])
def test_a_fused_query_has_rows_of_one_sample(world, paired):
    """The sum of two one-hot halves points at its target; neither half does alone. Unpaired rows are joined by id."""
    a, b = torch.eye(9)[torch.arange(9) // 3], torch.eye(9)[3 + torch.arange(9) % 3]
    order = torch.arange(9) if paired else torch.randperm(9)
    items = {"a": (a, range(9)), "b": (b[order], order), "c": (a + b, range(9))}
    evaluate = Retrieval(query="a+b", candidates="c", k=(1,))
    assert dict(evaluate.run(world(items, paired=paired)))["a+b_to_c_r1"] == 1
    assert dict(Retrieval(query="a", candidates="c", k=(1,)).run(world(items)))["a_to_c_r1"] == pytest.approx(1 / 3)


def integers(rng: np.random.Generator, n: int) -> torch.Tensor:
    """Rows whose products and sums are exact in float32, so that ties are ties."""
    return torch.from_numpy(rng.integers(-1, 2, (n, 5))).float()


def exact_embed(inputs, sides):
    """A plain side is the item itself, a fused one a sum that weighs its members by their place."""
    views = {}
    for name in sides:
        rows = [torch.stack(list(inputs[m])) for m in Side.parse(name).members]
        z = sum(place * x for place, x in enumerate(rows, 1))
        views[name] = View(z[:, None], torch.ones(len(z), 1, dtype=torch.bool))
    return views


def asked(objective: str, rows: list[np.ndarray]) -> np.ndarray:
    """The vector whose dot product with a candidate is the score, by the definition of each objective."""
    if len(rows) == 1:
        return rows[0]
    return {"clip": sum(rows) / len(rows), "confu": rows[0] + 2 * rows[1], "symile": rows[0] * rows[1]}[objective]


@pytest.mark.parametrize("objective", [CLIP, ConFu, Symile])
def test_every_way_of_three_modalities_equals_brute_force(world, objective):
    """Ragged, unpaired items with ties; queries joined by id, and formed as each objective says."""
    name, modalities, seed = objective.__name__.lower(), ("a", "b", "c"), np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    x = {m: integers(rng, n) for m, n in zip(modalities, (41, 23, 17), strict=True)}
    ids = {m: np.append(rng.integers(0, 12, len(x[m]) - 1), 99) for m in modalities}  # at least one id is everywhere
    items = {m: (x[m], ids[m]) for m in modalities}
    got = dict(Retrieval(k=(1, 2, 5)).run(world(items, objective=objective(modalities), lookup=exact_embed)))

    recalls: dict[int, list[float]] = {1: [], 2: []}
    expected = {}
    for size in (1, 2):
        for asking, target in product(combinations(modalities, size), modalities):
            if target in asking:
                continue
            queries, own = [], []
            for row, id_ in enumerate(ids[asking[0]]):
                others = [ids[m].tolist().index(id_) if id_ in ids[m] else None for m in asking[1:]]
                if None not in others and id_ in ids[target]:
                    at = zip(asking, [row, *others], strict=True)
                    queries.append(asked(name, [x[m][i].numpy() for m, i in at]))
                    own.append(id_)
            ranks = np.array(sorted_ranks(np.stack(queries) @ x[target].numpy().T, np.array(own), ids[target]))
            way, c = f"{'+'.join(asking)}_to_{target}", len(ids[target])
            positives = [int((ids[target] == i).sum()) for i in own]
            expected[f"{way}_median_rank"] = np.median(ranks)
            if left_out := len(ids[asking[0]]) - len(ranks):
                expected[f"{way}_left_out"] = left_out
            for k in (1, 2, 5):
                recalls[size].append((ranks <= k).mean())
                expected[f"{way}_r{k}"] = recalls[size][-1]
                expected[f"{way}_chance_r{k}"] = 1 - np.mean([math.comb(c - p, k) / math.comb(c, k) for p in positives])
        expected[f"mean_recall_{size}_to_1"] = np.mean(recalls[size])
    expected["mean_recall"] = np.mean(recalls[1] + recalls[2])
    assert got == pytest.approx(expected, abs=1e-6), seed


def ways(world, objective, modalities: str, **options) -> set[str]:
    items = {m: (torch.eye(6), range(6)) for m in modalities}
    context = world(items, objective=objective(tuple(modalities)), lookup=exact_embed, paired=True)
    names = [name for name, _ in Retrieval(k=(1,), **options).run(context)]
    return {name.removesuffix("_r1") for name in names if name.endswith("_r1") and not name.endswith("_chance_r1")}


def all_ways(modalities: str, *sizes: int) -> set[str]:
    return {
        f"{'+'.join(asking)}_to_{target}"
        for size in sizes
        for asking in combinations(modalities, size)
        for target in set(modalities) - set(asking)
    }


@pytest.mark.slow
def test_more_than_two_ask_together_where_the_objective_fuses_them_or_they_are_all_the_others(world):
    assert ways(world, ConFuChain, "abcde") == all_ways("abcde", 1, 2, 3, 4)
    assert ways(world, CLIP, "abcde") == ways(world, ConFu, "abcde") == all_ways("abcde", 1, 2, 4)
    assert ways(world, ConFuChain, "abcde", together=(3,)) == all_ways("abcde", 3)
    assert ways(world, Symile, "abc", query="a+b") == {"a+b_to_c"}
    assert ways(world, Symile, "abc", candidates="a") == {"b_to_a", "c_to_a", "b+c_to_a"}
    assert ways(world, CLIP, "ab") == {"a_to_b", "b_to_a"}


def test_what_was_never_contrasted_is_asked_for_all_the_same(world):
    """The hub's spokes meet through plain cosines; fused singletons are searched where the objective says so."""
    assert ways(world, Hub, "abc") == all_ways("abc", 1, 2)
    assert ways(world, CoMM, "abc") == all_ways("abc", 1, 2)


def test_an_objective_that_only_scores_is_asked_one_to_one(world):
    class OnlyScores(Objective):
        all_sides = tuple(Side((m,)) for m in "abc")

        def score(self, query, candidates):
            (a,), (b,) = query.values(), candidates.values()
            return a.z[:, 0] @ b.z[:, 0].T

    assert ways(world, lambda modalities: OnlyScores(), "abc") == all_ways("abc", 1)


def test_ks_are_sorted_and_counted_once(world):
    x = torch.eye(9)
    context = world({"image": (x, range(9)), "text": (x.roll(1, 0), range(9))})
    found = dict(Retrieval(k=(5, 1, 5), both_ways=False, query="image", candidates="text").run(context))
    assert [name for name in found if name.endswith(("_r1", "_r5"))] == [
        f"image_to_text_{name}" for name in ("r1", "r5", "chance_r1", "chance_r5")
    ]
    assert found["mean_recall"] == pytest.approx((found["image_to_text_r1"] + found["image_to_text_r5"]) / 2)
    for key, value in (("k", []), ("k", [0]), ("together", [])):
        with pytest.raises(ValueError, match=key):
            validate("eval", {"name": "retrieval", key: value})


def test_refusals(world):
    x = torch.eye(3)
    with pytest.raises(ValueError, match="none of 3 queries"):
        list(Retrieval().run(world({"image": (x, [1, 2, 3]), "text": (x, [4, 5, 6])})))
    with pytest.raises(ValueError, match="this split has image"):
        list(Retrieval(query="image", candidates="text").run(world({"image": (x, [1, 2, 3])})))
    with pytest.raises(ValueError, match=r"no way to ask .* image"):
        list(Retrieval().run(world({"image": (x, [1, 2, 3])})))
    apart = {"image": (x, [1, 2, 3]), "text": (x, [4, 5, 6]), "c": (x, [1, 2, 3])}
    with pytest.raises(ValueError, match="none of 3 items of image shares its id"):
        list(Retrieval(query="image+text", candidates="c").run(world(apart)))
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


def test_any_item_of_the_querys_class_is_right_where_a_label_says_so(world):
    """Five items of three classes, one of them unlabelled: it asks nothing and is nobody's answer."""
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    y = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([0, 1, 0, -1, 2])
    context = world({"sound": (x, range(5)), "text": (y, range(5))}, targets={"sum": classes.tolist()})
    got = dict(Retrieval(k=(1,), same={"text": "sum"}).run(context))
    best = (F.normalize(x, dim=1) @ F.normalize(y, dim=1).T).argmax(1)
    asked = classes >= 0
    right = (classes[best] == classes) & asked
    assert got["sound_to_text_r1"] == pytest.approx((right.sum() / asked.sum()).item())
    assert got["sound_to_text_chance_r1"] == pytest.approx((2 + 1 + 2 + 1) / 5 / 4)
    plain = dict(Retrieval(k=(1,)).run(context))
    assert got["text_to_sound_r1"] == plain["text_to_sound_r1"]  # sounds are still found by their ids


def test_labels_that_cannot_tell_what_is_right_are_refused(world):
    x = torch.eye(3)
    context = world({"sound": (x, range(3)), "text": (x, range(3))}, targets={"sum": [0, 1, 2]})
    with pytest.raises(ValueError, match="no labels named 'total': it has sum"):
        dict(Retrieval(k=(1,), same={"text": "total"}).run(context))
    with pytest.raises(ValueError, match="same: nothing searches for smell"):
        Retrieval(same={"smell": "sum"}).check(context.objective, context.data)
