"""Hub, SLIP, GRAM, TRIANGLE, CoMM, ConFu's subsets and its chain against formulas written out by hand in float64."""

import math
import random
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor

from synthetic.xor import XOR
from workbench.documentation import document
from workbench.objectives.clip import CLIP
from workbench.objectives.comm import CoMM
from workbench.objectives.confu import ConFu
from workbench.objectives.confu_chain import ConFuChain
from workbench.objectives.gram import EPS, GRAM
from workbench.objectives.hub import Hub
from workbench.objectives.slip import SLIP
from workbench.objectives.triangle import TRIANGLE
from workbench.terms import Scale
from workbench.types import Loss, Pool, Side, View, Views

ABC, ABCD = ("a", "b", "c"), ("a", "b", "c", "d")
B, D = 13, 7
FAMILY: list[Callable[..., Any]] = [
    Hub, GRAM, TRIANGLE, CoMM, ConFuChain, lambda names: ConFu(names, fuse="subsets"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    seed = random.SystemRandom().randrange(2**31)
    torch.manual_seed(seed)
    print("seed", seed)
    torch.set_default_dtype(torch.float64)  # a scale made in float32 would be rounded
    yield
    torch.set_default_dtype(torch.float32)


def unit(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1).requires_grad_()


def views(sides: Any, b: int = B, k: int = 1, d: int = D, dtype: torch.dtype = torch.float64) -> Views:
    return {str(s): View(unit(b, k, d, dtype=dtype), torch.ones(b, k, dtype=torch.bool)) for s in sides}


def drop(z: Views, absent: dict[str, Tensor]) -> Views:
    """The same rows; modality m lacks in the samples absent[m], and a fused side where any member does, as the model
    has it."""
    out = {}
    for name, view in z.items():
        gone = torch.zeros(len(view.z), dtype=torch.bool)
        for m in Side.parse(name).members:
            gone = gone | absent.get(m, gone)
        out[name] = View(view.z, view.valid & ~gone[:, None])
    return out


def pool(z: Views, ids: Tensor | None = None, **where: Any) -> Pool:
    b = len(next(iter(z.values())).z)
    return Pool(z, torch.arange(b) if ids is None else ids, **where)


def clip(x: Tensor, y: Tensor, s: float) -> Tensor:
    target = torch.arange(len(x))
    return (F.cross_entropy(s * x @ y.T, target) + F.cross_entropy(s * y @ x.T, target)) / 2


def nt_xent(x: Tensor, y: Tensor, s: float) -> Tensor:
    """SimCLR's loss over the 2n rows [x; y] by an independent package."""
    n = len(x)
    dot = DotProductSimilarity(normalize_embeddings=False)
    return NTXentLoss(temperature=1 / s, distance=dot)(torch.cat([x, y]), torch.arange(n).repeat(2))


def same(got: Tensor, want: Tensor, *leaves: Tensor) -> None:
    """Equal values, and equal gradients of 3.7 times them."""
    torch.testing.assert_close(got.double(), want.double(), rtol=1e-8, atol=1e-9)
    mine = torch.autograd.grad(3.7 * got, leaves, allow_unused=True, retain_graph=True)
    theirs = torch.autograd.grad(3.7 * want, leaves, allow_unused=True, retain_graph=True)
    for a, b in zip(mine, theirs, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-6, atol=1e-7)


def leaves(z: Views) -> list[Tensor]:
    return [view.z for view in z.values()]


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


# gram and triangle


def gram_volume(rows: list[Tensor]) -> Tensor:
    G = torch.stack([torch.stack([x @ y for y in rows]) for x in rows])
    return torch.linalg.det(G + EPS * torch.eye(len(rows))).sqrt()


def triangle_area(rows: list[Tensor]) -> Tensor:
    u, v = rows[0] - rows[1], rows[0] - rows[2]
    return (u.square().sum() * v.square().sum() - (u @ v) ** 2) / 2


def by_pairs(volume: Callable[[list[Tensor]], Tensor], anchor: Tensor, others: list[Tensor], s: float) -> Tensor:
    """Cross-entropies of minus the volume of anchor i with the others of sample j, one pair at a time."""
    n = len(anchor)
    logits = torch.stack(
        [torch.stack([-s * volume([anchor[i], *(o[j] for o in others)]) for j in range(n)]) for i in range(n)]
    )
    target = torch.arange(n)
    return sum(F.cross_entropy(m, target, label_smoothing=0.1) for m in (logits, logits.T)) / 2  # type: ignore[return-value]


@pytest.mark.parametrize(("size", "anchor"), [(2, "b"), (3, None), (3, "c"), (4, "b"), (5, "e")])
def test_gram_is_the_determinant_of_every_gram_matrix(size: int, anchor: str | None) -> None:
    names = tuple("abcde"[:size])
    z = views(names, b=7)
    first = anchor or "a"
    want = by_pairs(gram_volume, z[first].z[:, 0], [z[m].z[:, 0] for m in names if m != first], 6.0)
    same(GRAM(names, anchor=anchor, scale=Scale(init=6.0))(z, pool(z)).total, want, *leaves(z))


@pytest.mark.parametrize("anchor", ABC)
def test_triangle_is_the_area_between_three_points(anchor: str) -> None:
    z = views(ABC, b=9)
    want = by_pairs(triangle_area, z[anchor].z[:, 0], [z[m].z[:, 0] for m in ABC if m != anchor], 6.0)
    same(TRIANGLE(ABC, anchor=anchor, scale=Scale(init=6.0))(z, pool(z)).total, want, *leaves(z))


@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_float32_knows_small_volumes(size: int, noise: float) -> None:
    """Determinants of nearly equal embeddings cancel: sums of products in float32 are wrong by .1 here at eight."""
    z = F.normalize(unit(11, 1, 32) + noise * torch.randn(11, size, 32) / math.sqrt(32), dim=-1).detach()
    x = z.float()
    got = GRAM(tuple("abcdefgh"[:size])).volume(x[:, 0], list(x[:, 1:].unbind(1)))
    for i, j in product(range(11), repeat=2):
        want = gram_volume([z[i, 0], *z[j, 1:]]).item()
        assert got[i, j].item() == pytest.approx(want, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_gradient_is_finite_where_embeddings_coincide(size: int, dtype: torch.dtype) -> None:
    names = tuple("abcd"[:size])
    z = views(names, dtype=dtype)
    with torch.no_grad():
        for m in names[1:]:  # all modalities of half the samples, two of the others
            z[m].z[:6] = z["a"].z[:6]
        z[names[-1]].z[6:] = z["a"].z[6:]
        z["a"].z[1] = z["a"].z[0]  # and two samples
    objectives = [GRAM(names), *([TRIANGLE(names)] if size == 3 else [])]
    for objective in objectives:
        objective.to(dtype)
        loss = objective(z, pool(z)).total
        gradients = torch.autograd.grad(loss, [*leaves(z), objective.log_scale])
        assert all(g.isfinite().all() for g in [loss, *gradients])
        assert all(g.abs().max() < 1e3 for g in gradients)


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_float32_is_close_to_float64(make: Callable[..., Any]) -> None:
    z = views(ABC, b=41, d=19)
    low = {m: View(v.z.float(), v.valid) for m, v in z.items()}
    rounded = make(ABC).float()(low, pool(low)).total
    torch.testing.assert_close(rounded.double(), make(ABC)(z, pool(z)).total, rtol=1e-4, atol=1e-4)


def test_two_modalities_of_gram_are_blind_to_the_sign() -> None:
    z = views(("a", "b"))
    flipped = z | {"b": View(-z["b"].z, z["b"].valid)}
    gram = GRAM(("a", "b"))
    torch.testing.assert_close(gram(flipped, pool(flipped)).total, gram(z, pool(z)).total)


def test_triangle_never_holds_a_number_for_every_pair_and_dimension() -> None:
    z, sizes = views(ABC, b=32, d=32), []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        TRIANGLE(ABC)(z, pool(z))
    assert max(sizes) <= 32 * 32


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_volumes_leave_out_samples_that_miss_a_modality(make: Callable[..., Any]) -> None:
    z, gone = views(ABC), {"b": torch.arange(B) % 4 == 0, "c": torch.arange(B) % 5 == 1}
    complete = ~(gone["b"] | gone["c"])
    alone = {m: View(v.z[complete], v.valid[complete]) for m, v in z.items()}
    partly = drop(z, gone)
    same(make(ABC)(partly, pool(partly)).total, make(ABC)(alone, pool(alone)).total, *leaves(z))
    nothing = drop(z, {"a": torch.ones(B, dtype=torch.bool)})
    assert make(ABC)(nothing, pool(nothing)).total == 0


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_equal_ids_share_the_target(make: Callable[..., Any]) -> None:
    z, ids = views(ABC), torch.randint(5, (B,))
    objective = make(ABC, scale=Scale(init=5.0), label_smoothing=0.3)
    others = [z[m].z[:, 0] for m in "bc"]
    logits = -5.0 * objective.volume(z["a"].z[:, 0], others)
    equal = ids[:, None] == ids
    target = equal / equal.sum(1, keepdim=True)
    want = sum(F.cross_entropy(m, target, label_smoothing=0.3) for m in (logits, logits.T)) / 2
    same(objective(z, pool(z, ids)).total, want, *leaves(z))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [GRAM, TRIANGLE])
def test_the_score_is_minus_the_volume_with_every_candidate(make: Callable[..., Any]) -> None:
    z, objective = views(ABC, b=5), make(ABC)
    scores = objective.score({m: z[m] for m in objective.query_sides(("a", "b"), "c")}, {"c": z["c"]})
    volume = gram_volume if make is GRAM else triangle_area
    for i, j in product(range(5), repeat=2):
        rows = [z["a"].z[i, 0], z["b"].z[i, 0], z["c"].z[j, 0]]
        assert scores[i, j].item() == pytest.approx(-volume(rows).item(), abs=1e-9)


def test_one_modality_asks_triangle_by_cosine() -> None:
    z = views(ABC, b=5)
    torch.testing.assert_close(TRIANGLE(ABC).score({"a": z["a"]}, {"b": z["b"]}), z["a"].z[:, 0] @ z["b"].z[:, 0].T)


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
    z = {str(s): View(torch.ones(16, 1, 4) / 2, torch.ones(16, 1, dtype=torch.bool)) for s in objective.all_sides}
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


@pytest.mark.parametrize("name", ["hub", "slip", "gram", "triangle", "comm", "confu", "confu_chain"])
def test_documentation_gives_source_and_cost(name: str) -> None:
    found = document("objective", name)
    for word in ("arxiv", "time ", "b^2 d", "memory "):
        assert word in " ".join(found.block.text.lower().split()), word
    assert all(keyword.description for keyword in found.block.keywords)
