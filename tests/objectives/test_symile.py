"""Symile with all n^2 negatives: the formula over all pairs, strips of a pool, missing modalities, the optimum."""

import math

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from torch import Tensor

from synthetic.synergy import Synergy
from synthetic.xor import XOR
from workbench.cli import cli
from workbench.objectives.symile import Symile
from workbench.terms import Scale
from workbench.types import Pool, View, Views

NAMES = ("a", "b", "c")


def views(b: int = 11, d: int = 6, absent: Tensor | None = None) -> Views:
    """Random unit rows; samples marked absent lack modality b."""
    z = {m: F.normalize(torch.randn(b, 1, d, dtype=torch.float64), dim=-1).requires_grad_() for m in NAMES}
    there = torch.ones(b, 1, dtype=torch.bool)
    return {m: View(v, ~absent[:, None] if m == "b" and absent is not None else there) for m, v in z.items()}


def pool(z: Views) -> Pool:
    return Pool(z, torch.arange(len(z["a"].z)))


def objective(init: float = 9.0) -> Symile:
    return Symile(NAMES, negatives="n_squared", scale=Scale(init=init)).double()


def by_pairs(z: Views, s: float) -> Tensor:
    """Mean over directions and anchors i of the cross-entropy of pair (i, i) among all pairs (j, k)."""
    total = torch.zeros((), dtype=torch.float64)
    for x, y, w in (("a", "b", "c"), ("b", "a", "c"), ("c", "a", "b")):
        logits = s * torch.einsum("id,jd,kd->ijk", *(z[m].z[:, 0] for m in (x, y, w)))
        n = len(logits)
        total = total + F.cross_entropy(logits.flatten(1), torch.arange(n) * (n + 1)) / 3
    return total


def gradients(z: Views) -> list[Tensor]:
    return [v.z.grad for v in z.values() if v.z.grad is not None]


def test_the_loss_contrasts_every_pair() -> None:
    z, loss = views(), objective()
    got = loss(z, pool(z))
    got.total.backward()
    mine, scale = gradients(z), loss.log_scale.grad
    for v in z.values():
        v.z.grad = None
    log_scale = torch.tensor([math.log(9.0)], dtype=torch.float64, requires_grad=True)
    want = by_pairs(z, log_scale.exp())  # type: ignore[arg-type]
    want.backward()
    torch.testing.assert_close(got.total, want)
    torch.testing.assert_close(mine, gradients(z))
    torch.testing.assert_close(scale, log_scale.grad)
    assert got.logs.keys() == {"loss/a", "loss/b", "loss/c", "positives/complete", "scale"}


def test_samples_that_miss_a_modality_are_left_out() -> None:
    absent = torch.tensor([True, *(torch.rand(9) < 0.4).tolist(), False])
    z = views(absent=absent)
    alone = {m: View(v.z[~absent], v.valid[~absent]) for m, v in z.items()}
    torch.testing.assert_close(objective()(z, pool(z)).total, by_pairs(alone, 9.0))


@pytest.mark.parametrize("negatives", ["n", "n_squared"])
def test_no_complete_sample_costs_nothing(negatives: str) -> None:
    z = views(absent=torch.ones(11, dtype=torch.bool))
    loss = Symile(NAMES, negatives=negatives).double()(z, pool(z)).total  # type: ignore[arg-type]
    loss.backward()
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients(z))


def test_strips_of_a_pool_average_to_the_whole() -> None:
    """What two processes return: each its rows against the rows of both."""
    z = views(10, absent=torch.arange(10) < 6)  # the first strip has no complete sample at all
    whole = objective()(z, pool(z)).total
    parts = []
    for offset in (0, 5):
        mine = {m: View(v.z[offset : offset + 5], v.valid[offset : offset + 5]) for m, v in z.items()}
        parts.append(objective()(mine, Pool(z, torch.arange(10), offset, world=2)).total)
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_nothing_learned_costs_two_log_n() -> None:
    z = {m: View(torch.ones(16, 1, 4) / 2, torch.ones(16, 1, dtype=torch.bool)) for m in NAMES}
    loss = Symile(NAMES, negatives="n_squared")
    assert loss(z, pool(z)).total.item() == pytest.approx(2 * math.log(16), rel=1e-6)
    floor = loss.optimum(XOR(bits=2).truth(16))
    assert floor is not None
    assert floor[1] == pytest.approx(2 * math.log(16))


@pytest.mark.slow
def test_a_perfect_model_of_xor_lands_on_the_optimum() -> None:
    """Characters of the group (signs of parities) make the product of three codes nonzero only where c = a xor b."""
    seed, batch, task = torch.seed() % 2**31, 24, XOR(bits=3)
    codes = torch.arange(8)
    parity = torch.stack([((codes & k)[:, None] >> torch.arange(3) & 1).sum(1) % 2 for k in range(8)], 1)
    book = (1.0 - 2.0 * parity).double() / math.sqrt(8)
    loss, draw = objective(100.0), torch.Generator().manual_seed(seed)
    there, losses = torch.ones(batch, 1, dtype=torch.bool), []
    for _ in range(400):
        z = {m: View(book[c][:, None], there) for m, c in task.sample(batch, draw).items()}
        losses.append(loss(z, pool(z)).total.detach())
    values = torch.stack(losses)
    floor = loss.optimum(task.truth(batch))
    assert floor is not None
    assert abs(values.mean() - floor[0]) < 4 * values.std() / math.sqrt(400), f"seed {seed}"


def test_no_exact_optimum_is_claimed_where_none_is_known() -> None:
    assert objective().optimum(Synergy(bits=2, p=0.5).truth(16)) is None


def test_only_three_modalities_have_all_pairs() -> None:
    with pytest.raises(ValueError, match=r"of three modalities, the model has 4: \['a', .*use negatives: n"):
        Symile((*NAMES, "d"), negatives="n_squared")
    assert Symile((*NAMES, "d")).negatives == "n"


def test_a_recipe_takes_the_option_and_its_documentation_shows_it() -> None:
    def wb(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments)

    shown = wb("show", "objective", "symile")
    assert "n | n_squared" in shown.stdout
    done = wb("check", "recipes/synth/symile.yaml", "--set", "objective.negatives=n_squared")
    assert done.exit_code == 0, done.stderr
    done = wb("check", "recipes/synth/symile.yaml", "--set", "objective.negatives=all")
    assert done.exit_code == 2
    assert "n_squared" in done.stderr
