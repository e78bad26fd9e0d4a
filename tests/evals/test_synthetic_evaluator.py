"""The synthetic evaluator on models whose answers are known: one that knows everything, one that knows nothing."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from synthetic.xor import XOR
from workbench.component import validate
from workbench.evals.synthetic import Synthetic
from workbench.types import Context, Loss, Pool, Side, View, Views
from workbench.verdict import verdict

BATCH = 64


class OneTerm:
    """InfoNCE between a+b and c at a scale that makes one-hot embeddings the optimal critic; remembers its pools."""

    def __init__(self, optimum: Any = None) -> None:
        self.pools: list[Pool] = []
        self.known = optimum

    def sides(self, step: int) -> list[Side]:
        return [Side.parse("a+b"), Side.parse("c")]

    def query_sides(self, others: tuple[str, ...], target: str) -> list[str]:
        assert (others, target) == (("a", "b"), "c")
        return ["a+b"]

    def score(self, query: Views, candidates: Views) -> torch.Tensor:
        return query["a+b"].z[:, 0] @ candidates["c"].z[:, 0].T

    def __call__(self, z: Views, pool: Pool) -> Loss:
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

    return Context(embed, objective, SimpleNamespace(task=task), BATCH, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [1, 3])
def test_the_optimal_model_lands_on_the_floor(bits):
    objective, seed = OneTerm(), int(torch.randint(2**31, ()))
    got = dict(Synthetic(batches=200).run(context(XOR(bits=bits), objective, knows=True, seed=seed)))
    assert got["accuracy"] == got["bayes"] == 1
    assert got["chance"] == 2**-bits
    assert got["no_information_loss"] == pytest.approx(math.log(BATCH))
    assert abs(got["loss"] - got["floor"]) < 5 * got["loss_se"], seed
    assert got["recovered"] == pytest.approx(1, abs=0.05)
    assert verdict(got["loss"], got["loss_se"], got["floor"], got["no_information_loss"], 1) == "passed"
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


def test_refusals():
    with pytest.raises(ValueError, match="needs a synthetic task"):
        list(Synthetic().run(Context(lambda *_: {}, OneTerm(), SimpleNamespace(), BATCH, 0)))  # type: ignore[arg-type]
    objective = OneTerm()
    objective.query_sides = lambda others, target: []
    with pytest.raises(ValueError, match="nothing predicts it"):
        list(Synthetic().run(context(XOR(), objective, knows=True)))
    with pytest.raises(ValueError, match="batches"):  # one batch has no standard error
        validate("eval", {"name": "synthetic", "batches": 1})
