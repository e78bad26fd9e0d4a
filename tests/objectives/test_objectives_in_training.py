"""The remaining objectives in a model: absence never leaks, micro-batches are exact, two processes are one, recipes
train."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from several import spawn
from torch import Tensor, nn

from workbench.build import Parts, build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.fusion.transformer import Transformer
from workbench.model import Model
from workbench.objectives.comm import CoMM
from workbench.recipe.schema import load_recipe, parse_recipe
from workbench.runs.cost import assemble, cost
from workbench.runs.train import train
from workbench.seeds import seed_torch
from workbench.studies import arms
from workbench.training.metrics import Metrics
from workbench.types import Encoder, Features, Pool

OBJECTIVES: list[Any] = [
    "hub",
    "gram",
    "triangle",
    "comm",
    {"name": "confu", "fuse": "subsets"},
    "confu_chain",
    "modgap",
]


def parts(objective: Any, seed: int = 0, **train: Any) -> Parts:
    deep_set = {"name": "deep_set", "hidden": 16, "dropout": 0.0}
    tree = {
        "name": "x",
        "seed": seed,
        "data": {"name": "synthetic", "task": "xor", "samples": 96},
        "model": {"dim": 8, "head": "linear", "encoders": dict.fromkeys("abc", "mlp"), "fusion": deep_set},
        "objective": objective,
        "train": {"for": "4 steps", "batch": 24, "lr": 0.01} | train,
        "parallel": {"workers": 0},
    }
    return build_parts(parse_recipe(tree))


def step(p: Parts, inputs: dict[str, Tensor], valid: dict[str, Tensor]) -> list[Tensor]:
    """The loss of a batch and its gradient for every parameter."""
    for module in (p.model, p.objective):
        module.zero_grad()
    z = p.model(inputs, valid, [str(s) for s in p.objective.sides(0)])
    loss = p.objective(z, Pool(z, torch.arange(len(inputs["a"])))).total
    loss.backward()
    return [loss.detach(), *(q.grad for m in (p.model, p.objective) for q in m.parameters() if q.grad is not None)]


def test_a_second_caption_that_no_sample_has_changes_nothing_of_ito() -> None:
    """With two declared captions and one there, fused rows had no positive, and the fusion loss was exactly 0."""
    tree = {
        "name": "x",
        "data": {"name": "synthetic", "task": "xor", "samples": 96},
        "model": {"dim": 8, "encoders": dict.fromkeys("ab", "mlp"), "fusion": {"name": "mlp", "dropout": 0.0}},
        "objective": "ito",
        "train": {"for": "4 steps", "batch": 24},
    }
    p = build_parts(parse_recipe(tree))
    x = {"a": torch.randn(12, 2, 3), "b": torch.randn(12, 1, 3)}
    there = {m: torch.ones(v.shape[:2], dtype=torch.bool) for m, v in x.items()}
    declared = x | {"b": torch.cat([x["b"], 9 * torch.randn(12, 1, 3)], 1)}
    lacking = there | {"b": torch.tensor([True, False]).expand(12, 2)}
    one, two = (step(p, inputs, valid) for inputs, valid in ((x, there), (declared, lacking)))
    assert one[0] > 2
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_what_an_absent_modality_holds_never_matters(objective: Any) -> None:
    torch.manual_seed(seed := random.SystemRandom().randrange(2**31))
    p = parts(objective)
    inputs = {m: torch.randn(20, 1, 3) for m in "abc"}
    valid = {m: torch.rand(20, 1) < 0.6 for m in "abc"}
    other = {m: x.where(valid[m][..., None], 9 * torch.randn_like(x)) for m, x in inputs.items()}
    for a, b in zip(step(p, inputs, valid), step(p, other, valid), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m: f"seed {seed}: {m}")


class Tokens(Encoder):
    """A tower whose tokens are its input's rows: real where their last number is positive."""

    width, has_tokens = 8, True

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        h = self.linear(x[..., :3])
        return Features(z=h[:, 0], pooled=h[:, 0], tokens=h if tokens else None, mask=x[..., 3] > 0)


def test_padding_never_leaks_into_comm() -> None:
    """Neither a padded token of a modality that is there, nor any of one that is not."""
    torch.manual_seed(seed := random.SystemRandom().randrange(2**31))
    objective = CoMM(("a", "b"))
    fusion = Transformer(objective.all_sides, {"a": 8, "b": 8}, 8, heads=2, readout="mean")
    model = Model({"a": Tokens(), "b": Tokens()}, {}, fusion)
    p = Parts(None, None, model, objective)  # type: ignore[arg-type]
    inputs = {m: torch.randn(14, 2, 5, 4) for m in "ab"}
    for x in inputs.values():
        x[:, :, 0, 3] = 1.0  # at least one token
    valid = {m: torch.rand(14, 2) < 0.7 for m in "ab"}
    other = {}
    for m, x in inputs.items():
        seen = (x[..., 3:] > 0) & valid[m][..., None, None]
        noise = torch.cat([torch.randn(14, 2, 5, 3), x[..., 3:]], -1)
        other[m] = x.where(seen, noise)
    assert not torch.equal(inputs["a"], other["a"])
    for a, b in zip(step(p, inputs, valid), step(p, other, valid), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m: f"seed {seed}: {m}")


def losses(objective: Any, **train: Any) -> list[float]:
    p, metrics = parts(objective, **train), Metrics(None)
    build_engine(p, Parallel(), metrics).fit()
    return [record["train/loss"] for record in metrics.records]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_micro_batches_are_exact(objective: Any) -> None:
    whole, pieces = losses(objective), losses(objective, microbatch=6)
    assert len(whole) == 4
    assert len(set(whole)) == 4
    assert pieces == pytest.approx(whole, rel=1e-5)


def test_chains_of_two_builds_agree_and_of_two_seeds_differ() -> None:
    chains = []
    for seed in (0, 0, 1):
        objective = parts("confu_chain", seed=seed).objective
        chains.append([[t.between for t in objective.chain(step)] for step in range(20)])
    assert chains[0] == chains[1] != chains[2]


def test_the_chain_trains_every_weight_at_every_step() -> None:
    """An optimizer skips a weight without a gradient, on one process, and decays it on several."""
    p = parts("confu_chain")
    inputs, valid = ({m: make(6, 1, *shape) for m in "abc"} for make, shape in ((torch.randn, (3,)), (torch.ones, ())))
    for n in range(6):
        p.model.zero_grad()
        z = p.model(inputs, {m: v.bool() for m, v in valid.items()}, [str(s) for s in p.objective.sides(n)])
        p.objective(z, Pool(z, torch.arange(6), step=n)).total.backward()
        assert all(q.grad is not None for q in p.model.parameters())


def share(parallel: Parallel) -> dict[str, list[Tensor]]:
    """{objective: logs and gradients}, each process having its part of one batch with gaps."""
    found, mine = {}, slice(parallel.rank * 20 // parallel.world, (parallel.rank + 1) * 20 // parallel.world)
    for objective in OBJECTIVES:
        p = parts(objective)
        seed_torch(0, "batch")
        inputs = {m: torch.randn(20, 1, 3)[mine] for m in "abc"}
        valid = {m: (torch.rand(20, 1) < 0.7)[mine] for m in "abc"}
        z = p.model(inputs, valid, [str(s) for s in p.objective.sides(3)])
        loss = p.objective(z, parallel.pool(z, torch.arange(20)[mine], 3, 0))
        loss.total.backward()
        trained = [q for module in (p.model, p.objective) for q in module.parameters() if q.requires_grad]
        parallel.average_gradients(trained)
        logs = parallel.average({"total": loss.total.detach(), **loss.logs})
        gradients = [torch.zeros_like(q) if q.grad is None else q.grad for q in trained]
        found[str(objective)] = [*logs.values(), *gradients]
    return found


def write_share(rank: int, out: Path) -> None:
    parallel = Parallel.join()
    found = share(parallel)
    if rank == 0:
        torch.save(found, out)
    parallel.leave()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    one = share(Parallel())
    spawn(2, write_share, tmp_path / "found")
    two = torch.load(tmp_path / "found")
    for name, values in one.items():
        for a, b in zip(values, two[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hub", "gram", "triangle", "comm", "confu_subsets", "confu_chain"])
def test_shipped_recipes_of_the_line_up_train(name: str) -> None:
    recipe = arms.recipe_of({"name": "xor"}, name, 0, ("train.for=2 steps", "data.samples=256"))
    facts = train(recipe).records[-1]
    assert 0 <= facts["eval/synthetic/accuracy"] <= 1
    assert ("eval/synthetic/floor" in facts) == (name != "comm")


@pytest.mark.slow
def test_slip_fits_the_shipped_image_text_model() -> None:
    recipe = load_recipe("emoji_ito.yaml", ("objective=slip",))
    assert list(assemble(recipe).model.heads) == ["image@ssl"]
    assert cost(recipe).parameters["heads"] == (168 + 1) * 128
