"""A term's refinements are what their formulas say, on several views with gaps; what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from kernels import matryoshka, multi_positive_infonce, multi_positive_sigmoid
from workbench.contrasts import TermRows
from workbench.term import Term, refine
from workbench.terms import Scale, Terms
from workbench.types import Pool, Side, View

A, B, C = Side(("a",)), Side(("b",)), Side(("c",))
IDS = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4])


def draw_views(k: int, seed: int) -> dict[Side, View]:
    draw = torch.Generator().manual_seed(seed)

    def view() -> View:
        z = normalize(torch.randn(len(IDS), k, 6, generator=draw, dtype=torch.float64), dim=-1)
        return View(z, torch.rand(len(IDS), k, generator=draw) > 0.2)

    return {A: view(), B: view()}


def evaluate(z: dict[Side, View], **term: object) -> Tensor:
    objective = Terms(("a", "b"), [Term.model_validate({"between": ["a", "b"], **term})], Scale(init=8.0)).double()
    return objective(z, Pool(z, IDS)).total


def by_hand(z: dict[Side, View], positives: str, **options: object) -> Tensor:
    x, y = (view.z.flatten(0, 1) for view in z.values())
    w, v = (view.valid.flatten().double() for view in z.values())
    ids = IDS.repeat_interleave(z[A].z.shape[1])
    weights = {"x_weight": w, "y_weight": v}
    return multi_positive_infonce(x, y, 8.0, ids, ids, positives=positives, backend="reference", **weights, **options)


@pytest.fixture
def seed() -> int:
    return torch.seed() % 2**31


@pytest.mark.parametrize("positives", ["mean", "logsum", "each"])
def test_refinements_reach_the_loss(positives, seed):
    z = draw_views(2, seed)
    for term, options in (
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
        ({"hardness": 4.0}, {"hardness": 4.0}),
        ({"false_negatives": {}}, {"false_negative_margin": 0.0}),
        (
            {"false_negatives": {"margin": -0.2, "relative": True}},
            {"false_negative_margin": -0.2, "relative_margin": True},
        ),
    ):
        want = by_hand(z, positives, **options)
        torch.testing.assert_close(evaluate(z, positives=positives, **term), want, atol=1e-6, rtol=1e-6)
        assert not torch.isclose(want, by_hand(z, positives), atol=1e-4)


def test_smoothing_of_pairs_of_views_is_that_of_torch(seed):
    z = {side: View(view.z, torch.ones_like(view.valid)) for side, view in draw_views(2, seed).items()}
    objective = Terms(("a", "b"), [Term(between=("a", "b"), label_smoothing=0.1)], Scale(init=8.0)).double()
    ids = torch.arange(len(IDS))
    parts = []
    for v in range(2):
        for t in range(2):
            S = 8 * z[A].z[:, v] @ z[B].z[:, t].T
            parts += [cross_entropy(s, ids, label_smoothing=0.1) for s in (S, S.T)]
    got = objective(z, Pool(z, ids)).total
    torch.testing.assert_close(got, torch.stack(parts).mean(), atol=1e-6, rtol=1e-6)


def test_balance_counts_each_id_once(seed):
    """With one id to a row, rows of an id that is there several times weigh one over their number."""
    z = draw_views(2, seed)
    counts = [
        torch.stack([(valid * (i == IDS)[:, None]).sum() for i in IDS]).clamp(min=1).repeat_interleave(2)
        for valid in (view.valid for view in z.values())
    ]
    log_weights = {name: -n.double().log() for name, n in zip(("x_log_weight", "y_log_weight"), counts, strict=True)}
    want = by_hand(z, "mean", **log_weights)
    torch.testing.assert_close(evaluate(z, positives="mean", balance=True), want, atol=1e-6, rtol=1e-6)


def test_a_guide_judges_samples_by_a_third_side(seed):
    """Samples whose guide's cosine is above .6 are no negatives; one without a guide is everybody's."""
    z = draw_views(1, seed)
    z = {side: View(view.z, torch.ones_like(view.valid)) for side, view in z.items()}
    guide, valid = normalize(torch.randn(len(IDS), 1, 2, dtype=torch.float64), dim=-1), torch.ones(len(IDS), 1).bool()
    guide[1], valid[2] = guide[0], False
    z[C] = View(torch.nn.functional.pad(guide, (0, 4)).requires_grad_(), valid)
    judged = {"between": ["a", "b"], "false_negatives": {"guide": "c", "margin": -0.4}}
    terms = [Term.model_validate(judged), Term(between=("a", "c"))]
    ids, objective = torch.arange(len(IDS)), Terms(("a", "b", "c"), terms, Scale(init=8.0)).double()
    got = objective(z, Pool(z, ids)).logs["loss/a~b"]

    near = (guide[:, 0] @ guide[:, 0].T > 0.6) & ~torch.eye(len(IDS)).bool()
    near[2] = near[:, 2] = False
    S = (8 * z[A].z[:, 0] @ z[B].z[:, 0].T).masked_fill(near, -torch.inf)
    want = (cross_entropy(S, ids) + cross_entropy(S.T, ids)) / 2
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_a_guide_that_no_term_contrasts_is_refused():
    term = Term.model_validate({"between": ["a", "b"], "false_negatives": {"guide": "c"}})
    with pytest.raises(ValueError, match=r"guide names \['c'\], which no term contrasts: name one of a, b"):
        Terms(("a", "b", "c"), [term], Scale(init=8.0))


def test_balance_of_a_strip_counts_all_ranks_rows():
    ids, rows = torch.tensor([5, 5, 6, 5]), torch.ones(4, 1)
    everyone = TermRows(rows, ids, torch.tensor([1.0, 0.0, 1.0, 1.0]))
    strip = TermRows(rows[2:], ids[2:], None)
    options = refine(Term(between=("a", "b"), balance=True), strip, everyone, everyone, Pool({}, ids))
    torch.testing.assert_close(options["x_log_weight"].exp(), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(options["y_log_weight"].exp(), torch.tensor([0.5, 0.5, 1.0, 0.5]))


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
@pytest.mark.parametrize("prefixes", [[2, 6], {2: 0.5, 5: 2.0}])
def test_matryoshka_is_the_weighted_sum_of_unit_prefixes(loss, prefixes, seed):
    z = draw_views(2, seed)
    weights = prefixes if isinstance(prefixes, dict) else dict.fromkeys(prefixes, 1.0)
    cut = {d: {s: View(normalize(v.z[..., :d], dim=-1), v.valid) for s, v in z.items()} for d in weights}
    want = sum(w * evaluate(cut[d], loss=loss, positives="mean") for d, w in weights.items())
    got = evaluate(z, loss=loss, positives="mean", matryoshka=prefixes)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "sigmoid", "label_smoothing": 0.1}, r"label_smoothing: .*loss sigmoid has not.*infonce"),
        ({"loss": "sigmoid", "false_negatives": {}, "balance": True}, r"false_negatives, balance"),
        ({"loss": "sigmoid", "hardness": 1}, r"hardness: .*loss sigmoid has not"),
        ({"loss": "align_uniform", "label_smoothing": 0.1}, r"loss align_uniform has not"),
        ({"loss": "align_uniform", "matryoshka": [2]}, r"remove matryoshka"),
        ({"label_smoothing": 0.1, "false_negatives": {}}, r"remove one of the two"),
        ({"label_smoothing": 1.0}, r"less than 1"),
        ({"false_negatives": {"margn": 0.1}}, r"margin"),
        ({"matryoshka": []}, r"matryoshka is \[\]"),
        ({"matryoshka": [2, 2]}, r"matryoshka is \[2, 2\]"),
        ({"matryoshka": [0]}, r"greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused(term, message):
    with pytest.raises(ValueError, match=message):
        Term.model_validate({"between": ["a", "b"], **term})


def test_a_prefix_beyond_the_width_is_refused_with_both_numbers(seed):
    with pytest.raises(ValueError, match=r"a prefix has 7 dimensions and the rows have 6"):
        evaluate(draw_views(1, seed), matryoshka=[2, 7])
    z = draw_views(1, seed)[A].z[:, 0]
    with pytest.raises(ValueError, match=r"weight nan"):
        matryoshka(multi_positive_sigmoid, z, z, 1.0, 0.0, IDS, IDS, prefixes={2: float("nan")})


def test_an_objective_says_how_many_dimensions_its_longest_prefix_has():
    terms = [Term(between=("a", "b"), matryoshka={2: 1.0, 5: 0.5}), Term(between=("b", "a"), matryoshka=(3,))]
    assert Terms(("a", "b"), terms, Scale()).least_dim == 5
    assert Terms(("a", "b"), [Term(between=("a", "b"))], Scale()).least_dim == 1


def test_a_refined_term_claims_no_optimum():
    class Known:
        def infonce(self, a: object, b: object) -> object:
            raise AssertionError("must not be asked")

    assert Terms(("a", "b"), [Term(between=("a", "b"), label_smoothing=0.1)], Scale()).optimum(Known()) is None  # type: ignore[arg-type]
