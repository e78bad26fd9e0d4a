"""Hub, SLIP, CoMM, ConFu's subsets and its chain against formulas written out by hand in float64; what all refuse."""

import math
from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from objective_problems import ABC, ABCD, B, clip, drop, leaves, pool, same, views
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor

from synthetic.xor import XOR
from workbench.objectives.clip import CLIP
from workbench.objectives.comm import CoMM
from workbench.objectives.confu import ConFu
from workbench.objectives.confu_chain import ConFuChain
from workbench.objectives.gram import GRAM
from workbench.objectives.hub import Hub
from workbench.objectives.slip import SLIP
from workbench.objectives.triangle import TRIANGLE
from workbench.recipe.documentation import document
from workbench.terms import Scale
from workbench.types import Loss, View

pytestmark = pytest.mark.usefixtures("in_float64")
FAMILY: list[Callable[..., Any]] = [
    Hub, GRAM, TRIANGLE, CoMM, ConFuChain, lambda names: ConFu(names, fuse="subsets"),
]  # fmt: skip


def nt_xent(x: Tensor, y: Tensor, s: float) -> Tensor:
    """SimCLR's loss over the 2n rows [x; y] by an independent package."""
    n = len(x)
    dot = DotProductSimilarity(normalize_embeddings=False)
    return NTXentLoss(temperature=1 / s, distance=dot)(torch.cat([x, y]), torch.arange(n).repeat(2))


# hub


@pytest.mark.parametrize("hub", [None, "c"])
def test_hub_is_the_sum_of_its_pairs(hub: str | None) -> None:
    z, objective = views(ABCD), Hub(ABCD, hub=hub, scale=Scale(init=9.0))
    center = hub or "a"
    want = sum(clip(z[center].z[:, 0], z[m].z[:, 0], 9.0) for m in ABCD if m != center)
    same(objective(z, pool(z)).total, want, *leaves(z))  # type: ignore[arg-type]


def test_hub_asks_the_hub_for_the_others_and_all_others_for_the_hub() -> None:
    objective = Hub(ABC, hub="b")
    assert objective.query_sides(("a", "b"), "c") == ["b"]
    assert objective.query_sides(("a", "c"), "b") == ["a", "c"]
    assert objective.query_sides(("a",), "c") == []  # no term trains this pair


# slip


def test_slip_is_clip_and_simclr_on_the_views() -> None:
    z = views(["image@ssl"], k=2) | views(["image"], k=2) | views(["text"])
    objective = SLIP(("image", "text"), weight=0.7, scale=Scale(init=9.0))
    align = sum(clip(z["image"].z[:, v], z["text"].z[:, 0], 9.0) for v in (0, 1)) / 2
    ssl = nt_xent(z["image@ssl"].z[:, 0], z["image@ssl"].z[:, 1], 10.0)
    same(objective(z, pool(z)).total, align + 0.7 * ssl, *leaves(z))
    assert [str(s) for s in SLIP(("image", "text"), views_of="text").all_sides] == ["image", "text", "text@ssl"]


def test_slip_of_weight_zero_is_clip() -> None:
    z = views(ABC)
    same(SLIP(ABC, weight=0)(z, pool(z)).total, CLIP(ABC)(z, pool(z)).total, *leaves(z))


def test_slip_reaches_zero_for_any_number_of_views() -> None:
    """A sample's own other views left in the denominator would put log(K - 1) under it: log 3 here."""
    eye = torch.eye(6, dtype=torch.float64)[:, None]
    z = {s: View(eye.expand(6, 4, 6), torch.ones(6, 4, dtype=torch.bool)) for s in ("image", "image@ssl")}
    z["text"] = View(eye, torch.ones(6, 1, dtype=torch.bool))
    sharp = Scale(init=99.0)
    assert 0 <= SLIP(("image", "text"), scale=sharp, view_scale=sharp)(z, pool(z)).total < 1e-9


def test_slip_refuses_a_single_view() -> None:
    z = views(["image@ssl", "image", "text"])
    with pytest.raises(ValueError, match="give the data more views"):
        SLIP(("image", "text"))(z, pool(z))


# comm


def comm_sides(names: tuple[str, ...]) -> list[str]:
    return [*(f"+{m}" for m in names), "+".join(names)]


@pytest.mark.parametrize("names", [("a", "b"), ABC])
def test_comm_is_nt_xent_of_every_part_with_the_whole(names: tuple[str, ...]) -> None:
    z, whole = views(comm_sides(names), k=2), "+".join(names)
    Z1, Z2 = z[whole].z.unbind(1)
    parts = [(z[side].z[:, 0], z[side].z[:, 1]) for side in comm_sides(names)]  # the whole is one of them
    want = sum((nt_xent(z1, Z2, 10.0) + nt_xent(z2, Z1, 10.0)) / 2 for z1, z2 in parts) / (len(names) + 1)
    same(CoMM(names)(z, pool(z)).total, want, *leaves(z))


def test_comm_of_one_view_masks_modalities_only() -> None:
    z = views(comm_sides(ABC))
    want = sum(nt_xent(z[f"+{m}"].z[:, 0], z["a+b+c"].z[:, 0], 10.0) for m in ABC) / 3
    same(CoMM(ABC)(z, pool(z)).total, want, *leaves(z))  # type: ignore[arg-type]


def test_comm_shows_a_single_caption_twice() -> None:
    z = views(["+a", "a+b"], k=2) | views(["+b"])
    twice = z | {"+b": View(z["+b"].z.expand(-1, 2, -1), torch.ones(B, 2, dtype=torch.bool))}
    comm = CoMM(("a", "b"))
    torch.testing.assert_close(comm(z, pool(z)).total, comm(twice, pool(twice)).total)


def test_comm_keeps_samples_that_have_some_modality() -> None:
    z = views(comm_sides(ABC))
    gone = {m: torch.rand(B) < 0.3 for m in ABC}
    gone["b"][0], gone["a"][0], gone["c"][0], gone["a"][1:4] = True, True, True, False  # one sample has nothing at all
    losses = [
        nt_xent(z[f"+{m}"].z[~gone[m], 0], z["a+b+c"].z[~gone[m], 0], 10.0) for m in ABC
    ]  # who has m has a whole to meet
    partly = drop(z, gone)
    same(CoMM(ABC)(partly, pool(partly)).total, sum(losses) / 3, *leaves(z))  # type: ignore[arg-type]


def test_comm_asks_through_the_fusion_on_both_sides() -> None:
    comm, z = CoMM(ABC), views(["a+b", "+c"])
    assert (comm.query_sides(("b", "a"), "c"), comm.candidate_side("c")) == (["a+b"], "+c")
    assert comm.score({"a+b": z["a+b"]}, {"+c": z["+c"]}).shape == (B, B)


# confu over subsets


@pytest.mark.slow
def test_subsets_are_counted() -> None:
    """Every set S of modalities with every target outside it; two plain modalities make one term, not two."""
    counts = {}
    for size in (3, 4, 5, 8):
        names = tuple("abcdefgh"[:size])
        found = [frozenset(str(s) for s in t.sides) for t in ConFu(names, fuse="subsets").terms]
        every = {
            frozenset(("+".join(m for i, m in enumerate(names) if bits >> i & 1), target))
            for bits in range(1, 2**size)
            for j, target in enumerate(names)
            if not bits >> j & 1
        }
        assert len(found) == len(set(found))
        assert set(found) == every
        assert len(found) == size * (2 ** (size - 1) - 1) - size * (size - 1) // 2
        assert len(ConFu(names).terms) == size * (size - 1) ** 2 // 2
        counts[size] = len(found)
    assert counts == {3: 6, 4: 22, 5: 65, 8: 988}


def test_subsets_are_pairs_and_every_fusion_with_every_other_modality() -> None:
    fused = ["+".join(s) for k in (2, 3) for s in combinations(ABCD, k)]
    z = views([*ABCD, *fused])
    objective = ConFu(ABCD, lambda_=0.3, fuse="subsets", scale=Scale(init=8.0))
    pairs = sum(clip(z[x].z[:, 0], z[y].z[:, 0], 8.0) for x, y in combinations(ABCD, 2))
    whole = sum(clip(z[s].z[:, 0], z[m].z[:, 0], 8.0) for s in fused for m in ABCD if m not in s)
    same(objective(z, pool(z)).total, 0.7 * pairs + 0.3 * whole, *leaves(z))
    assert objective.total_weight == pytest.approx(6 * 0.7 + 16 * 0.3)
    assert objective.query_sides(("a", "b", "d"), "c") == ["a+b+d"]


def test_three_modalities_have_no_subsets_but_pairs() -> None:
    assert ConFu(ABC, fuse="subsets").terms == ConFu(ABC).terms


# the chain


def seeded_chain(seed: int, names: tuple[str, ...] = ABCD) -> ConFuChain:
    torch.manual_seed(seed)
    return ConFuChain(names, scale=Scale(init=8.0))


def order_of(chain: ConFuChain, step: int) -> tuple[str, ...]:
    terms = [t.between for t in chain.chain(step)]
    return (terms[0][0], *(target for _, target in terms))


def test_an_order_is_a_function_of_seed_and_step() -> None:
    one, again, other = seeded_chain(3), seeded_chain(3), seeded_chain(4)
    orders = [order_of(one, step) for step in range(40)]
    assert orders == [order_of(again, step) for step in reversed(range(40))][::-1]
    assert orders != [order_of(other, step) for step in range(40)]


def test_orders_are_uniform() -> None:
    chain, draws = seeded_chain(5, ABC), 1800
    found = [order_of(chain, step) for step in range(draws)]
    for order in permutations(ABC):  # a sixth each; five standard deviations
        assert abs(found.count(order) - draws / 6) < 5 * math.sqrt(draws * 5 / 36)


@pytest.mark.parametrize("step", [0, 7])
def test_the_chain_contrasts_each_modality_with_the_fusion_of_those_before(step: int) -> None:
    chain = seeded_chain(torch.seed() % 2**31)
    order = order_of(chain, step)
    prefixes = ["+".join(sorted(order[:k])) for k in (1, 2, 3)]
    assert sorted(str(s) for s in chain.sides(step)) == sorted([*ABCD, *prefixes[1:]])
    assert set(chain.sides(step)) <= set(chain.all_sides)
    z = views(chain.sides(step))
    got: Loss = chain(z, pool(z, step=step))
    want = [clip(z[p].z[:, 0], z[m].z[:, 0], 8.0) for p, m in zip(prefixes, order[1:], strict=True)]
    same(got.total, sum(want), *leaves(z))  # type: ignore[arg-type]
    assert [got.logs[f"loss/{k}_to_1"].item() for k in (1, 2, 3)] == pytest.approx([w.item() for w in want])


def test_a_sample_leaves_a_term_without_its_target_or_its_whole_prefix() -> None:
    chain = seeded_chain(torch.seed() % 2**31)
    order = order_of(chain, 0)
    z = views(chain.sides(0))
    gone = {m: torch.rand(B) < 0.35 for m in ABCD}
    for m in ABCD:
        gone[m][:2] = False
    want = torch.zeros((), dtype=torch.float64)
    for k in (1, 2, 3):
        prefix = torch.stack([~gone[m] for m in order[:k]]).any(0)
        rows = prefix & ~gone[order[k]]
        want = want + clip(z["+".join(sorted(order[:k]))].z[rows, 0], z[order[k]].z[rows, 0], 8.0)
    partly = drop(z, gone)
    same(chain(partly, pool(partly)).total, want, *leaves(z))


def test_the_chain_asks_the_fusion_of_all_others() -> None:
    chain = ConFuChain(ABCD)
    assert chain.query_sides(("d", "a", "b"), "c") == ["a+b+d"]
    assert chain.query_sides(("d",), "c") == ["d"]
    assert chain.total_weight == 3


# all of them


@pytest.mark.parametrize("make", FAMILY)
def test_nothing_learned_costs_what_the_truth_says(make: Callable[..., Any]) -> None:
    objective, truth = make(ABC), XOR(bits=2).truth(16)
    z = {s: View(torch.ones(16, 1, 4) / 2, torch.ones(16, 1, dtype=torch.bool)) for s in objective.all_sides}
    loss = objective(z, pool(z)).total.item()
    best = objective.optimum(truth)
    if make is CoMM:  # nobody knows its optimum: all 2B rows but itself are alike
        assert best is None
        assert loss == pytest.approx(math.log(31), rel=1e-6)
    else:
        assert best[1] == pytest.approx(loss, rel=1e-6)
        assert best[0] < best[1] - 0.1 or make is Hub  # pairs of xor share nothing


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hub(("a",)), "two modalities or more"),
        (lambda: Hub(ABC, hub="q"), "hub 'q' is no modality .*'a', 'b', 'c'"),
        (lambda: SLIP(("a",)), "two modalities or more"),
        (lambda: SLIP(ABC, views_of="q"), "views_of 'q' is no modality"),
        (lambda: GRAM(("a",)), "two modalities or more"),
        (lambda: GRAM(ABC, anchor="q"), "anchor 'q' is no modality"),
        (lambda: TRIANGLE(("a", "b")), "needs three modalities, the model has 2: .*use clip"),
        (lambda: TRIANGLE(ABCD), "needs three modalities, the model has 4: .*use gram"),
        (lambda: CoMM(("a",)), "two modalities or more"),
        (lambda: ConFuChain(("a", "b")), "use clip"),
        (lambda: ConFu(("a", "b"), fuse="subsets"), "use clip"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["hub", "slip", "gram", "triangle", "comm", "confu", "confu_chain", "modgap"])
def test_documentation_gives_source_and_cost(name: str) -> None:
    found = document("objective", name)
    for word in ("arxiv", "time ", "b^2 d", "memory "):
        assert word in " ".join(found.block.text.lower().split()), word
    assert all(keyword.description for keyword in found.block.keywords)
