"""The held-out loss is the training loss on whole batches of a split, beside the floor of the law behind it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from synthetic.modsum import ModSum
from synthetic.pid_gaussian import PIDGaussian
from workbench.evals.held_out_loss import HeldOutLoss, cut, rename
from workbench.objectives.clip import CLIP
from workbench.objectives.confu import ConFu
from workbench.recipe.component import validate
from workbench.terms import Scale, Term, Terms
from workbench.types import View

NAMES = ("picture", "voice", "word")
SIZE = 10
SURE = Scale(init=60, learn=False)


def see(inputs, sides):
    """Embeds digits as one-hot rows; a fused side knows its third, as it should."""

    def fuse(side):
        codes = {m: torch.stack([torch.as_tensor(x) for x in inputs[m]]).argmax(1) for m in side.members}
        if len(codes) == 1:
            return codes[side.members[0]]
        if set(codes) == {"picture", "voice"}:
            return (codes["picture"] + codes["voice"]) % SIZE
        other = next(m for m in codes if m != "word")
        return (codes["word"] - codes[other]) % SIZE

    views = {side: F.one_hot(fuse(side), SIZE).float()[:, None] for side in sides}
    return {side: View(z, torch.ones(len(z), 1, dtype=torch.bool)) for side, z in views.items()}


@pytest.fixture
def digits(world):
    """A context of 800 balanced triples of digits at the batch of 8 that the world has."""

    def make(objective, rows=800):
        i, j = torch.arange(rows) % SIZE, torch.arange(rows) // SIZE % SIZE
        columns = dict(zip(NAMES, (i, j, (i + j) % SIZE), strict=True))
        items = {m: (F.one_hot(x, SIZE).float(), range(rows)) for m, x in columns.items()}
        return world(items, objective=objective, lookup=see)

    return make


def evaluator(**settings) -> HeldOutLoss:
    return validate("eval", {"name": "held_out_loss", **settings}).build()


MODSUM = {"name": "modsum", "size": SIZE}


def test_who_perceives_everything_lands_on_the_floor(digits):
    fused = [Term(between=("picture+voice", "word")), Term(between=("voice+word", "picture"))]
    found = dict(evaluator(task=MODSUM).run(digits(Terms(NAMES, fused, SURE))))
    floor = sum(  # E log(1 + Bin(7, 1/10)): rows of one word cannot be told apart
        math.comb(7, k) * 0.1**k * 0.9 ** (7 - k) * math.log(1 + k) for k in range(8)
    )
    assert found["floor"] == pytest.approx(2 * floor)
    assert found["no_information_loss"] == pytest.approx(2 * math.log(8))
    assert abs(found["loss"] - found["floor"]) < 4 * found["loss_se"]
    assert 0 < found["loss_se"] < 0.1
    assert found["recovered"] == pytest.approx(1, abs=0.05)


def test_the_loss_is_that_of_the_objective_on_the_batches(digits):
    objective = ConFu(NAMES, scale=Scale(init=3.0))
    context = digits(objective, rows=30)
    batches = cut(30, 8, context.seed)
    assert [len(rows) for rows in batches] == [8, 8, 8]
    assert len(torch.cat(batches).unique()) == 24
    found = dict(evaluator().run(context))
    assert found.keys() == {"loss", "loss_se"}
    own = []
    for rows in batches:
        codes = {"picture": rows % SIZE, "voice": rows // SIZE % SIZE}
        codes["word"] = (codes["picture"] + codes["voice"]) % SIZE
        z = {m: F.one_hot(x, SIZE).float() for m, x in codes.items()}
        pairs = [("picture", "voice"), ("picture", "word"), ("voice", "word")]
        logits = [0.5 * _infonce(3 * z[a] @ z[b].T) for a, b in pairs]
        own.append(sum(logits) + _fused(z))
    assert found["loss"] == pytest.approx(torch.stack(own).mean().item(), rel=1e-5)


def _infonce(logits):
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _fused(z):
    """Fused sides equal their third, so each term contrasts a modality with itself."""
    return sum(0.5 * _infonce(3 * x @ x.T) for x in z.values())


def test_pairs_of_this_law_have_nothing_to_recover(digits):
    found = dict(evaluator(task=MODSUM).run(digits(CLIP(NAMES))))
    assert found["floor"] == pytest.approx(found["no_information_loss"]) == pytest.approx(3 * math.log(8))
    assert "recovered" not in found


def test_what_cannot_be_judged_is_refused_before_training(digits):
    pairs = CLIP(NAMES[:2])
    with pytest.raises(ValueError, match=r"the task has 3 modalities \(a, b, c\), the objective aligns 2"):
        evaluator(task=MODSUM).check(pairs, digits(pairs).data)
    with pytest.raises(ValueError, match="lists no outcomes"):
        rename(PIDGaussian(), [f"m{k}" for k in range(len(PIDGaussian().modalities))])
    with pytest.raises(ValueError, match=r"15 complete samples make 1 batches of 8.*batch=7 or less"):
        cut(15, 8, 0)


def test_the_law_keeps_its_probabilities_under_other_names():
    law, own = rename(ModSum(size=3), NAMES), ModSum(size=3).joint()
    assert law.codes == dict.fromkeys(NAMES, 3)
    assert (law.support == own.support).all()
    assert (law.probability == own.probability).all()
