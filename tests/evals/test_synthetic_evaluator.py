"""The synthetic evaluator on models whose answers are known: one that knows everything, one that knows nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from synthetic.theory.optima import Optimum
from synthetic.theory.truth import Truth
from synthetic.xor import XOR
from workbench.evals.synthetic import Synthetic, known_optimum
from workbench.objectives.clip import CLIP
from workbench.recipe.component import validate
from workbench.scoring.verdict import verdict
from workbench.terms import Scale, Term, Terms
from workbench.types import Context, Data, Loss, Objective, Pool, Side, View, Views

BATCH = 64


class OneTerm(Objective):
    """InfoNCE between a+b and c at a scale that makes one-hot embeddings the optimal critic; remembers its pools."""

    all_sides = (Side.parse("a+b"), Side.parse("c"))

    def __init__(self, optimum: Any = None) -> None:
        super().__init__()
        self.pools: list[Pool] = []
        self.known = optimum

    def query_sides(self, others: Sequence[str], target: str) -> Sequence[Side]:
        assert (others, target) == (("a", "b"), "c")
        return self.all_sides[:1]

    def score(self, query: Views, candidates: Views) -> torch.Tensor:
        return query["a+b"].z[:, 0] @ candidates["c"].z[:, 0].T

    def forward(self, z: Views, pool: Pool) -> Loss:
        self.pools.append(pool)
        logits, target = 50 * self.score(z, z), torch.arange(len(pool.ids))
        return Loss((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2, {})

    def optimum(self, truth: Any) -> Any:
        return self.known(truth) if self.known else truth.infonce(("a", "b"), ("c",))


def context(task: XOR, objective: Any, *, knows: bool, seed: int = 0) -> Context:
    """Embeds codes, read back from what was observed, as one-hot rows; or everything as the same row."""

    def code_of(modality: str, observed: list[torch.Tensor]) -> torch.Tensor:
        book = task.observe(modality, torch.arange(task.codes[modality])).flatten(1)
        return torch.cdist(torch.as_tensor(observed).flatten(1), book).argmin(1)

    def embed(inputs: Any, sides: Any) -> Views:
        views = {}
        for name in sides:
            codes = [code_of(m, inputs[m]) for m in Side.parse(name).members]
            code = codes[0] if len(codes) == 1 else codes[0] ^ codes[1]
            z = F.one_hot(code if knows else code * 0, task.codes["c"]).float()[:, None]
            views[name] = View(z, torch.ones(z.shape[:2], dtype=torch.bool))
        return views

    data = SimpleNamespace(task=task, observe=task.observe)
    return Context(embed, objective, data, BATCH, seed)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 3])
def test_the_optimal_model_lands_on_the_floor(bits):
    objective, seed = OneTerm(), int(torch.randint(2**31, ()))
    got = dict(Synthetic(batches=200).run(context(XOR(bits=bits), objective, knows=True, seed=seed)))
    assert got["accuracy"] == got["bayes"] == 1
    assert got["chance"] == 2**-bits
    assert got["no_information_loss"] == pytest.approx(math.log(BATCH))
    assert abs(got["loss"] - got["floor"]) < 5 * got["loss_se"], seed
    assert got["recovered"] == pytest.approx(1, abs=0.05)
    wide = 2 * got["loss_se"]  # a verdict allows for three, which one run in seven hundred misses
    assert verdict(got["loss"], wide, got["floor"], got["no_information_loss"], 1) == "passed"
    assert [pool.step for pool in objective.pools] == list(range(200))
    assert all(pool.seed == seed and pool.ids.tolist() == list(range(BATCH)) for pool in objective.pools)


def test_the_model_that_knows_nothing_is_blind():
    got = dict(Synthetic(batches=4).run(context(XOR(bits=3), OneTerm(), knows=False)))
    assert got["loss"] == pytest.approx(math.log(BATCH), rel=1e-5)
    assert got["accuracy"] == pytest.approx(1 / 8, abs=5 * (7 / 64 / 2000) ** 0.5)  # ties: always the lowest code
    assert got["recovered"] == pytest.approx(0, abs=1e-4)
    assert verdict(got["loss"], got["loss_se"], got["floor"], got["no_information_loss"], 1) == "blind"


def test_loss_and_its_standard_error_are_those_of_the_batches():
    objective = OneTerm()
    got = dict(Synthetic(batches=7).run(context(XOR(), objective, knows=True)))
    replay = OneTerm()
    losses = torch.stack([replay(pool.views, pool).total.double() for pool in objective.pools])
    assert got["loss"] == pytest.approx(losses.mean().item())
    assert got["loss_se"] == pytest.approx((losses.var() / 7).sqrt().item())
    assert losses.unique().numel() > 1, "every batch is a fresh one"


def test_samples_are_a_function_of_the_seed():
    a, again, b = (dict(Synthetic(batches=3).run(context(XOR(), OneTerm(), knows=True, seed=s))) for s in (1, 1, 2))
    assert a == again
    assert a["loss"] != b["loss"]


def test_what_is_not_known_is_left_out():
    unknown = OneTerm(optimum=lambda truth: None)
    got = dict(Synthetic(batches=2).run(context(XOR(), unknown, knows=True)))
    assert set(got) == {"accuracy", "chance", "bayes", "loss", "loss_se"}
    nothing_to_learn = OneTerm(optimum=lambda truth: (math.log(BATCH) + 3e-15, math.log(BATCH)))
    assert "recovered" not in dict(Synthetic(batches=2).run(context(XOR(), nothing_to_learn, knows=False)))


def test_an_inherited_optimum_is_not_that_of_another_loss():
    """The verdict of a CLIP with one more term was `partial`, at a recovered share of -1.34."""

    class OneMore(CLIP):
        def forward(self, z: Views, pool: Pool) -> Loss:
            loss = super().forward(z, pool)
            return Loss(loss.total + 7, loss.logs)

    class SaysItself(OneMore):
        def optimum(self, truth: Truth) -> Optimum | None:
            best = super().optimum(truth)
            return best and Optimum(best.value + 7, best.no_information + 7)

    class Renamed(CLIP):
        """The same loss under another name."""

    class Hurried(OneTerm):
        def forward(self, z: Views, pool: Pool) -> Loss:
            return Loss(torch.zeros(()), {})

    class Upside(OneMore):
        def optimum(self, truth: Truth) -> Optimum | None:
            return Optimum(3.0, 2.0)

    abc, truth = ("a", "b", "c"), XOR().truth(64)
    assert known_optimum(OneMore(abc), truth) is None
    assert known_optimum(SaysItself(abc), truth) == pytest.approx([x + 7 for x in CLIP(abc).optimum(truth) or ()])
    assert known_optimum(Renamed(abc), truth) == CLIP(abc).optimum(truth)
    assert known_optimum(Hurried(), truth) is None
    with pytest.raises(ValueError, match=r"Upside.optimum: the least loss, 3, lies above that of knowing nothing, 2"):
        known_optimum(Upside(abc), truth)


def test_refusals():
    with pytest.raises(ValueError, match="needs a synthetic task"):
        list(Synthetic().run(Context(lambda *_: {}, OneTerm(), SimpleNamespace(), BATCH, 0)))  # type: ignore[arg-type]
    objective = OneTerm()
    objective.query_sides = lambda others, target: []
    with pytest.raises(ValueError, match="nothing predicts it"):
        list(Synthetic().run(context(XOR(), objective, knows=True)))
    with pytest.raises(ValueError, match="batches"):  # one batch has no standard error
        validate("eval", {"name": "synthetic", "batches": 1})


def contrasts(modalities: tuple[str, ...], *terms: Term) -> Terms:
    """Contrast terms at the scale of a perfect critic on one-hot embeddings."""
    return Terms(modalities, terms, Scale(init=60.0))


def synthetic_data(**task: Any) -> Data:
    return validate("data", {"name": "synthetic", "task": task}).build()


def context_of(data: Data, objective: Terms, codes: Any, size: int, seed: int) -> Context:
    """Every side is the one-hot of `codes(inputs, side)`."""

    def embed(inputs: Any, sides: Any, valid: Any = None) -> Views:
        views = {}
        for side in sides:
            z = F.one_hot(codes(inputs, side), size).float()[:, None]
            everyone = torch.ones(len(z), dtype=torch.bool)
            there = [everyone if valid is None else valid[m] for m in Side.parse(side).members]
            views[side] = View(z, torch.stack(there).all(0)[:, None])
        return views

    return Context(embed, objective, data, BATCH, seed)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_missing_rows_leave_the_loss_on_its_own_floor(loss):
    seed = int(torch.randint(2**31, ()))
    data = synthetic_data(name="missing", of={"name": "xor", "bits": 2}, rate=0.3)
    objective = contrasts(("a", "b", "c"), Term(between=("a+b", "c"), loss=loss))
    if objective.bias is not None:  # right pairs at the optimal logit, wrong ones far below
        some = 1 - (1 - 0.7**3) ** BATCH
        objective.bias.data.fill_(math.log(4 * some / (BATCH * 0.7**3 - some)) - 60)

    def codes(inputs: Any, side: str) -> torch.Tensor:
        x = [inputs[m] for m in Side.parse(side).members]
        return ((x[0] if len(x) == 1 else (x[0] - x[1]).abs()) @ torch.tensor([1.0, 2.0])).long()

    got = dict(Synthetic(batches=150).run(context_of(data, objective, codes, 4, seed)))
    assert got["accuracy"] == got["bayes"] == 1, "complete samples"
    assert abs(got["loss"] - got["floor"]) < 5 * got["loss_se"], seed
    complete = XOR(bits=2).truth(BATCH)
    whole = complete.infonce(("a", "b"), ("c",)) if loss == "infonce" else complete.sigmoid(("a", "b"), ("c",))
    assert whole is not None
    assert got["floor"] < whole.value - 10 * got["loss_se"], "fewer rows cost less"


def test_emergent_retrieval_is_bounded_by_the_hub():
    """Embeddings that know what the image knows: the text finds the audio in one of `fine` cases."""
    data = synthetic_data(name="hub", coarse=4, fine=3)
    pairs = Term(between=("image", "text")), Term(between=("image", "audio"))

    def codes(inputs: Any, side: str) -> torch.Tensor:
        return inputs[side].argmax(1) // (1 if side == "image" else 3)

    got = dict(Synthetic().run(context_of(data, contrasts(("image", "text", "audio"), *pairs), codes, 4, 3)))
    assert got["accuracy"] == pytest.approx(1 / 3, abs=5 * (2 / 9 / 2000) ** 0.5)  # ties: always the lowest code
    assert got["bayes"] == 1
    assert abs(got["loss"] - got["floor"]) < 5 * got["loss_se"]


@pytest.mark.parametrize(("task", "low", "high"), [("uniqueness", 1.0, 1.0), ("latent-synergy", 0.1, 0.75**3)])
def test_a_hidden_label_is_read_by_a_linear_probe(task, low, high):
    """One-hot a and b tell a; their xor they tell no better than a sum of two scores can."""
    data = synthetic_data(name=task)
    modalities = tuple(data.modalities)
    objective = contrasts(modalities, *(Term(between=pair) for pair in combinations(modalities, 2)))

    def codes(inputs: Any, side: str) -> torch.Tensor:
        x = inputs[side]
        return x.argmax(1) if task == "uniqueness" else (x @ torch.tensor([1.0, 2.0, 4.0])).long()

    got = dict(Synthetic(batches=2).run(context_of(data, objective, codes, 8, 3)))
    assert low <= got["accuracy"] <= high
    assert (got["bayes"], got["chance"]) == (1, 0.125)
