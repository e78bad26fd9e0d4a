"""Objectives against formulas written out by hand in float64, on several views with gaps."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthetic.xor import XOR
from workbench.objectives.clip import CLIP
from workbench.objectives.comm import CoMM
from workbench.objectives.confu import ConFu
from workbench.objectives.confu_chain import ConFuChain
from workbench.objectives.gram import GRAM
from workbench.objectives.ito import ITO
from workbench.objectives.siglip import SigLIP
from workbench.objectives.symile import Symile
from workbench.objectives.terms import Terms
from workbench.objectives.triangle import TRIANGLE
from workbench.recipe.component import validate
from workbench.seeds import seed_for
from workbench.terms import Scale, Term
from workbench.types import Objective, Pool, Side, View, Views


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).requires_grad_()


def views(sides: dict[str, int], b: int = 13, d: int = 7, missing: float = 0.0) -> Views:
    valid = {side: torch.rand(b, k) >= missing for side, k in sides.items()}
    for v in valid.values():
        v[:, 0] |= ~v.any(1)
    return {side: View(unit(b, k, d), valid[side]) for side, k in sides.items()}


def pool(z: Views, ids: Tensor | None = None, **where: int) -> Pool:
    b = len(next(iter(z.values())).z)
    return Pool(z, torch.arange(b) if ids is None else ids, **where)


def softmax_loss(x: Tensor, y: Tensor, s: float, ids: Tensor) -> Tensor:
    """Mean over rows of minus the mean log-probability of a row's positives."""
    log_p = (s * x @ y.T).log_softmax(1)
    positive = (ids[:, None] == ids[None, :]).double()
    return -((positive * log_p).sum(1) / positive.sum(1)).mean()


def clip(x: Tensor, y: Tensor, s: float, ids: Tensor) -> Tensor:
    return 0.5 * (softmax_loss(x, y, s, ids) + softmax_loss(y, x, s, ids))


def nt_xent(z: Tensor, s: float) -> Tensor:
    """ITO's fusion loss as the paper's formula reads, for K fused embeddings a sample: z [K, N, d]."""
    total, (k, n, _) = torch.zeros((), dtype=z.dtype), z.shape
    for i, a in itertools.product(range(n), range(k)):
        negatives = torch.stack([s * z[a, i] @ z[c, j] for c in range(k) for j in range(n) if j != i])
        for b in range(k):
            if b != a:
                positive = s * z[a, i] @ z[b, i]
                total = total + torch.logaddexp(positive, negatives.logsumexp(0)) - positive
    return total / (n * k * (k - 1))


def close(a: Tensor, b: Tensor, message: str = "") -> None:
    assert torch.allclose(a.double(), b.double(), atol=1e-9, rtol=1e-9), f"{message}: {float(a)} != {float(b)}"


@pytest.fixture(autouse=True)
def _fresh() -> int:
    seed = random.SystemRandom().randrange(2**31)
    torch.manual_seed(seed)
    print("seed", seed)
    return seed


@pytest.mark.parametrize("repeats", [False, True])
def test_clip_is_the_sum_over_pairs(repeats: bool) -> None:
    z = views({"a": 1, "b": 1, "c": 1})
    ids = torch.randint(5, (13,)) if repeats else torch.arange(13)
    objective = CLIP(("a", "b", "c"), scale=Scale(init=9.0)).double()
    found = objective(z, pool(z, ids)).total
    s = float(objective.scale())
    close(found, sum(clip(z[x].z[:, 0], z[y].z[:, 0], s, ids) for x, y in ("ab", "ac", "bc")))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("v", "t"), [(1, 1), (2, 1), (2, 3), (3, 2)])
def test_ito_is_alignment_of_all_pairs_of_views_plus_the_fusion_loss(v: int, t: int) -> None:
    fused = max(v, t)
    z = views({"image": v, "text": t, "image+text": fused})
    weight = 2.0 if fused > 1 else 0.0
    objective = ITO(("image", "text"), lambda_=weight, scale=Scale(init=11.0)).double()
    s, ids = float(objective.scale()), torch.arange(13)
    align = sum(clip(z["image"].z[:, i], z["text"].z[:, j], s, ids) for i in range(v) for j in range(t)) / (v * t)
    expected = align + (weight * nt_xent(z["image+text"].z.transpose(0, 1), s) if weight else 0)
    loss = objective(z, pool(z)).total
    close(loss, expected)
    ours = torch.autograd.grad(3.7 * loss, [view.z for view in z.values()], allow_unused=True)
    theirs = torch.autograd.grad(3.7 * expected, [view.z for view in z.values()], allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-10)


def test_fusion_loss_reaches_zero_for_any_number_of_views() -> None:
    eye = torch.eye(6, dtype=torch.float64)[:, None].expand(6, 4, 6)
    z = {"image+text": View(eye, torch.ones(6, 4, dtype=torch.bool))}
    term = Term(between=("image+text", "image+text"))
    loss = Terms(("image", "text"), terms=[term], scale=Scale(init=99.0)).double()(z, pool(z)).total
    assert 0 <= float(loss) < 1e-9  # a sample's own other views left in the denominator would put log 3 under it


def test_pairwise_runs_over_the_samples_that_have_both_averaged_by_their_number() -> None:
    z = views({"image": 2, "text": 3}, missing=0.4)
    objective = CLIP(("image", "text"), scale=Scale(init=8.0)).double()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for v, t in itertools.product(range(2), range(3)):
        both = z["image"].valid[:, v] & z["text"].valid[:, t]
        n = int(both.sum())
        if n:
            x, y = z["image"].z[both, v], z["text"].z[both, t]
            total, count = total + n * clip(x, y, float(objective.scale()), torch.arange(n)), count + n
    close(objective(z, pool(z)).total, total / count)


@pytest.mark.parametrize("positives", ["mean", "logsum", "each"])
def test_joint_positives_leave_absent_views_out_everywhere(positives: str) -> None:
    z = views({"image": 2, "text": 3}, missing=0.3)
    objective = CLIP(("image", "text"), scale=Scale(init=6.0), positives=positives).double()  # type: ignore[arg-type]
    keep = {side: view.valid.flatten() for side, view in z.items()}
    x, y = (z[s].z.flatten(0, 1)[keep[s]] for s in ("image", "text"))
    ix, iy = (torch.arange(13).repeat_interleave(z[s].z.shape[1])[keep[s]] for s in ("image", "text"))

    def one_way(x: Tensor, y: Tensor, ix: Tensor, iy: Tensor) -> Tensor:
        logits, positive = float(objective.scale()) * x @ y.T, ix[:, None] == iy[None, :]
        rows = []
        for row, p in zip(logits, positive, strict=True):
            if not p.any():
                continue
            match positives:
                case "mean":
                    rows.append(row.logsumexp(0) - row[p].mean())
                case "logsum":
                    rows.append(row.logsumexp(0) - row[p].logsumexp(0))
                case _:
                    rows.append((torch.logaddexp(row[p], row[~p].logsumexp(0)) - row[p]).mean())
        return torch.stack(rows).mean()

    close(objective(z, pool(z)).total, 0.5 * (one_way(x, y, ix, iy) + one_way(y, x, iy, ix)), positives)


def test_siglip_judges_every_pair() -> None:
    z, ids = views({"image": 1, "text": 1}), torch.randint(6, (13,))
    objective = SigLIP(("image", "text")).double()
    logits = objective.scale() * z["image"].z[:, 0] @ z["text"].z[:, 0].T + objective.bias
    sign = torch.where(ids[:, None] == ids[None, :], 1.0, -1.0)
    close(objective(z, pool(z, ids)).total, -F.logsigmoid(sign * logits).sum() / 13)


def test_confu_is_pairs_and_fused_pairs_in_the_sum_form() -> None:
    z = views({"a": 1, "b": 1, "c": 1, "a+b": 1, "a+c": 1, "b+c": 1})
    objective = ConFu(("a", "b", "c"), lambda_=0.3).double()
    s, ids = float(objective.scale()), torch.arange(13)

    def nce(x: str, y: str) -> Tensor:
        return clip(z[x].z[:, 0], z[y].z[:, 0], s, ids)

    pairs = nce("a", "b") + nce("a", "c") + nce("b", "c")
    fused = nce("a+b", "c") + nce("a+c", "b") + nce("b+c", "a")
    close(objective(z, pool(z)).total, 0.7 * pairs + 0.3 * fused)
    assert not objective.log_scales["shared"].requires_grad


def test_symile_contrasts_the_true_product_with_shuffled_ones() -> None:
    z = views({"a": 1, "b": 1, "c": 1})
    objective = Symile(("a", "b", "c"), scale=Scale(init=5.0)).double()
    generator = torch.Generator().manual_seed(seed_for(4, "symile", 9))
    total = torch.zeros((), dtype=torch.float64)
    for anchor, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
        x, (p, q) = z[anchor].z[:, 0], (z[m].z[:, 0] for m in others)
        shuffled = p[torch.randperm(13, generator=generator)] * q[torch.randperm(13, generator=generator)]
        s = float(objective.scale())
        logits = s * x @ shuffled.T
        truth = s * (x * p * q).sum(1)
        logits = torch.where(torch.eye(13, dtype=torch.bool), truth, logits)
        total = total + F.cross_entropy(logits, torch.arange(13)) / 3
    close(objective(z, pool(z, step=9, seed=4)).total, total)


def test_symile_with_missing_modalities_equals_the_complete_samples_alone() -> None:
    z = views({"a": 1, "b": 1, "c": 1})
    absent = torch.rand(13) < 0.3
    absent[0] = True
    partly = z | {"b": View(z["b"].z, ~absent[:, None])}
    alone = {m: View(v.z[~absent], v.valid[~absent]) for m, v in z.items()}
    objective = Symile(("a", "b", "c")).double()
    close(objective(partly, pool(partly)).total, objective(alone, pool(alone)).total)


def test_uninformative_embeddings_cost_log_n_a_term() -> None:
    z = {m: View(torch.ones(16, 1, 4) / 2, torch.ones(16, 1, dtype=torch.bool)) for m in ("a", "b", "c")}
    assert float(CLIP(("a", "b", "c"))(z, pool(z)).total) == pytest.approx(3 * math.log(16), rel=1e-5)
    assert float(Symile(("a", "b", "c"))(z, pool(z)).total) == pytest.approx(math.log(16), rel=1e-5)


def test_a_weight_of_zero_asks_for_no_fused_side() -> None:
    assert [str(s) for s in ITO(("image", "text"), lambda_=0.0).all_sides] == ["image", "text"]


def test_detach_and_all_views_are_options_of_the_fused_side() -> None:
    sides = ITO(("image", "text"), views="all", detach=("tokens", "scale")).all_sides
    assert [str(s) for s in sides] == ["image", "text", "image+text:all:tokens"]


def test_a_detached_scale_gets_the_gradient_of_alignment_alone() -> None:
    z = views({"image": 2, "text": 2, "image+text": 2})
    both = ITO(("image", "text"), detach=("scale",)).double()
    alone = ITO(("image", "text"), lambda_=0.0).double()
    for objective in (both, alone):
        objective(z, pool(z)).total.backward()
    (a,), (b,) = both.parameters(), alone.parameters()
    assert a.grad is not None
    assert torch.allclose(a.grad, b.grad)  # type: ignore[arg-type]


SCALED = {
    "clip": lambda scale: CLIP(("a", "b", "c"), scale=scale),
    "comm": lambda scale: CoMM(("a", "b", "c"), scale=scale),
    "confu_chain": lambda scale: ConFuChain(("a", "b", "c"), scale=scale),
    "gram": lambda scale: GRAM(("a", "b", "c"), scale=scale),
    "symile": lambda scale: Symile(("a", "b", "c"), scale=scale),
    "term": lambda scale: Terms(("a", "b"), terms=[Term(between=("a", "b"), scale=scale)]),
    "triangle": lambda scale: TRIANGLE(("a", "b", "c"), scale=scale),
}


def own_scale(objective: Objective) -> nn.Parameter:
    """The parameter of the scale in question: a term's own, or the only one there is."""
    return dict(objective.named_parameters()).get("log_scales.a~b", next(objective.parameters()))


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_that_passed_its_limit_comes_back_when_the_data_want_a_smaller_one(name: str) -> None:
    """With a clamp in the forward pass it would have no gradient at the limit, and stay there."""
    objective = SCALED[name](Scale(init=30.0, max=40.0))
    log_scale = own_scale(objective)
    assert log_scale.shape == (1,)
    torch.nn.init.constant_(log_scale, math.log(55.0))
    objective.constrain()
    assert log_scale.exp().item() == pytest.approx(40.0)
    z = {side: View(unit(13, 1, 7).float(), torch.ones(13, 1, dtype=torch.bool)) for side in objective.all_sides}
    objective(z, pool(z)).total.backward()
    assert log_scale.grad is not None
    optimizer = torch.optim.SGD([log_scale], lr=1e-3)
    log_scale.grad.abs_()  # downhill is down
    optimizer.step()
    objective.constrain()
    assert log_scale.exp().item() < 39.9999


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_is_within_its_limit_after_weights_are_loaded(name: str) -> None:
    """Earlier versions let the parameter pass the limit, and clamped where it was used."""
    free, limited = (SCALED[name](Scale(init=30.0, max=limit)) for limit in (200.0, 100.0))
    torch.nn.init.constant_(own_scale(free), math.log(150.0))
    nn.ModuleDict({"objective": limited}).load_state_dict({f"objective.{k}": x for k, x in free.state_dict().items()})
    assert own_scale(limited).exp().item() == pytest.approx(100.0)


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_below_its_lower_limit_is_put_back_as_open_clip_does(name: str) -> None:
    for scale, least in ((Scale(), 1.0), (Scale(init=3.0, min=2.5), 2.5), (Scale(init=0.5), None)):
        objective = SCALED[name](scale)
        torch.nn.init.constant_(own_scale(objective), math.log(0.25))
        objective.constrain()
        assert own_scale(objective).exp().item() == pytest.approx(least or 0.25)


@pytest.mark.parametrize(
    ("terms", "words"),
    [([], "the list of terms is empty"), ([Term(between=("a", "b"), weight=0)], "every term .* has weight 0")],
)
def test_an_objective_of_nothing_is_refused(terms: list[Term], words: str) -> None:
    with pytest.raises(ValueError, match=rf"{words}.*: nothing would be trained"):
        Terms(("a", "b"), terms=terms, scale=Scale())


def test_a_scale_that_begins_below_its_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"init \(2\) is below min \(5\): raise init, or set min=2"):
        Scale(init=2.0, min=5.0)


def test_a_scale_that_begins_above_its_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"init \(160\) is above max \(100\)"):
        Scale(init=160.0)
    with pytest.raises(ValueError, match=r"init \(14.2857\) is above max \(12.5\)"):
        validate("objective", {"name": "clip", "scale": {"max": 12.5}})


@pytest.mark.parametrize("positives", ["pairwise", "mean", "each", "self"])
@pytest.mark.parametrize("world", [1, 3])
def test_the_share_of_rows_that_have_a_positive_is_counted(positives: str, world: int) -> None:
    b = 12
    z = views({"a": 2, "b": 3}, b=b)
    gone = torch.rand(b) < 0.4
    z = {m: View(v.z, (torch.rand(v.valid.shape) < 0.5) & ~(gone & (m == "b"))[:, None]) for m, v in z.items()}
    ids = torch.randint(8, (b,)) if positives != "pairwise" else torch.arange(b)
    term = (
        Term(between=("a", "a")) if positives == "self" else Term(between=("a", "b"), positives=positives)  # type: ignore[arg-type]
    )
    objective = Terms(("a", "b"), terms=[term]).double()
    mine = {m: View(v.z[4:8], v.valid[4:8]) for m, v in z.items()} if world > 1 else z
    everyone = Pool(z, ids, 4 if world > 1 else 0, world=world)
    x = [(int(ids[i]), i, v) for i in range(b) for v in range(2) if z["a"].valid[i, v]]
    y = x if positives == "self" else [(int(ids[i]), i, v) for i in range(b) for v in range(3) if z["b"].valid[i, v]]
    if positives == "pairwise":
        want = sum(i == j for _, i, _ in x for _, j, _ in y) / (b * 2 * 3)
    else:
        want = sum(
            any((p == q and (p, i, v) != (q, j, w)) or (p == q and positives != "self") for q, j, w in y)
            for p, i, v in x
        ) / (b * 2)
    assert objective.contrast(term, mine, everyone, objective.scale()).positives.item() == pytest.approx(want)


def test_a_term_without_a_positive_says_so_in_the_logs() -> None:
    """Its value is 0, which on a curve looks like success."""
    z = views({"image": 2, "text": 1, "image+text": 2})
    z[Side.parse("image+text")].valid[:, 1] = False
    loss = ITO(("image", "text")).double()(z, pool(z))
    assert loss.logs["loss/image+text~image+text"] == 0
    assert loss.logs["positives/image+text~image+text"] == 0
    assert loss.logs["positives/image~text"] == 1
    nobody = {side: View(v.z, v.valid & (side != "c")) for side, v in views({"a": 1, "b": 1, "c": 1}).items()}
    for objective in (Symile(("a", "b", "c")), GRAM(("a", "b", "c"))):
        assert objective.double()(nobody, pool(nobody)).logs["positives/complete"] == 0


def test_names_of_scales_are_those_of_checkpoints() -> None:
    own = Term(between=("a", "b"), scale=Scale())
    both = Terms(("a", "b", "c"), terms=[own, Term(between=("a", "c"))])
    assert both.state_dict().keys() == {"log_scales.shared", "log_scales.a~b"}
    assert ConFuChain(("a", "b", "c")).state_dict().keys() == {"possible.log_scales.shared"}
    for objective in (Symile(("a", "b", "c")), GRAM(("a", "b")), CoMM(("a", "b"))):
        assert objective.state_dict().keys() == {"log_scale"}


def test_two_terms_between_the_same_sides_have_names_and_scales_of_their_own() -> None:
    z = views({"a": 1, "b": 1})
    terms = [
        Term(between=("a", "b"), scale=Scale(init=5.0), weight=0.5),
        Term(between=("a", "b"), scale=Scale(init=50.0)),
        Term(between=("b", "a"), loss="sigmoid"),
        Term(between=("a", "b")),
    ]
    objective = Terms(("a", "b"), terms=terms, scale=Scale(init=20.0)).double()
    loss = objective(z, pool(z))
    x, y, ids = z["a"].z[:, 0], z["b"].z[:, 0], torch.arange(13)
    sign = 2 * torch.eye(13, dtype=torch.float64) - 1
    want = {
        "a~b": clip(x, y, float(objective.scale("a~b")), ids),
        "a~b#2": clip(x, y, float(objective.scale("a~b#2")), ids),
        "b~a": -F.logsigmoid(sign * (float(objective.scale()) * y @ x.T - 10)).sum() / 13,
        "a~b#3": clip(x, y, float(objective.scale()), ids),
    }
    assert [float(objective.scale(name)) for name in want] == pytest.approx([5, 50, 20, 20], rel=1e-6)
    for name, value in want.items():
        close(loss.logs[f"loss/{name}"], value, name)
    close(loss.total, 0.5 * want["a~b"] + want["a~b#2"] + want["b~a"] + want["a~b#3"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Symile(("a", "b")), "three modalities or more"),
        (lambda: ConFu(("a", "b")), "meet a third"),
        (lambda: ITO(("a", "b", "c")), "aligns two modalities"),
        (lambda: Terms(("a",), terms=[Term(between=("a", "q"))]), r"speak of \['q'\]"),
        (lambda: Term(between=("a+a", "b")), "not a side"),
        (lambda: Term(between=("a", "a"), positives="pairwise"), "has no pairs of sides"),
        (lambda: Term(between=("a", "b"), loss="sigmoid", positives="each"), "does not apply"),
        (lambda: CLIP(("a",)), "nothing would be trained"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_single_view_against_itself_is_an_error() -> None:
    z = views({"image": 1, "text": 1, "image+text": 1})
    with pytest.raises(ValueError, match="give the data more views"):
        ITO(("image", "text"))(z, pool(z))


@pytest.mark.parametrize(
    "name", ["image", "+image", "image+text", "image@ssl", "image+text:all", "a+b:positions:tokens"]
)
def test_names_of_sides_read_back(name: str) -> None:
    assert str(Side.parse(name)) == name


def test_query_sides_prefer_the_side_fused_from_everything_known() -> None:
    assert ConFu(("a", "b", "c")).query_sides(("a", "b"), "c") == ["a+b"]
    assert CLIP(("a", "b", "c")).query_sides(("a", "b"), "c") == ["a", "b"]
    assert Symile(("a", "b", "c")).query_sides(("a", "b"), "c") == ["a", "b"]


@pytest.mark.parametrize("between", [("a", "a"), ("a+b", "a"), ("+a", "a"), ("a+b", "b+c"), ("a", "a@other")])
@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_no_optimum_is_claimed_for_sides_that_share_a_modality(between: tuple[str, str], loss: Any) -> None:
    """Both sides see the same symbol then: what a contrast of them can reach depends on the views, not on the task."""
    terms = [Term(between=("a", "b")), Term(between=between, loss=loss)]
    truth = XOR(bits=2).truth(16)
    assert Terms(("a", "b", "c"), terms=terms[:1]).optimum(truth) is not None
    assert Terms(("a", "b", "c"), terms=terms).optimum(truth) is None
