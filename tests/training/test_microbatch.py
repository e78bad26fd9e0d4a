"""Micro-batches are exact: gradients of every parameter, dropout included, and no row is embedded without need."""

import random
from itertools import combinations
from typing import Any

import pytest
import torch
from small_engines import MODEL, TOWERS, built

from workbench.build import build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.recipe.schema import parse_recipe
from workbench.training.metrics import Metrics
from workbench.training.microbatch import split
from workbench.types import Batch, Loss


@pytest.mark.parametrize("objective", ["clip", "siglip", "symile", {"name": "confu", "scale": {"learn": True}}])
def test_microbatches_give_the_full_batch_gradient_of_every_parameter(objective: Any) -> None:
    found = []
    for microbatch in (None, 8):
        parts, engine = built(objective, microbatch=microbatch)
        parts.model.eval()  # dropout draws its numbers in another order when the batch is split
        batch = next(engine.batches(0))
        engine.objective.register_forward_hook(lambda _, __, loss: Loss(3.0 * loss.total, loss.logs))
        engine.gradients(batch)
        both = torch.nn.ModuleDict({"model": parts.model, "objective": parts.objective})
        found.append({name: p.grad for name, p in both.named_parameters() if p.requires_grad})
    whole, split = found
    assert any("scale" in name for name in whole)
    for name, gradient in whole.items():
        if gradient is None:
            assert split[name] is None
        else:
            assert torch.allclose(gradient, split[name], atol=1e-6, rtol=1e-5), name


def test_a_locked_tower_is_not_embedded_again() -> None:
    tower = TOWERS["model"]["encoders"]["image"] | {"lock": 0}
    model = TOWERS["model"] | {"encoders": TOWERS["model"]["encoders"] | {"image": tower}}
    tree = TOWERS | {"model": model, "objective": "clip", "train": {"for": "1 steps", "batch": 6, "microbatch": 2}}
    parts = build_parts(parse_recipe(tree))
    rows = {modality: [] for modality in parts.model.encoders}
    for modality, encoder in parts.model.encoders.items():
        encoder.register_forward_pre_hook(lambda _, inputs, m=modality: rows[m].append(len(inputs[0])))
    build_engine(parts, Parallel(), Metrics(None)).fit()
    assert rows == {"image": [4] * 3, "text": [2] * 6}  # two views of an image, one text


def test_many_microbatches_in_bf16_round_no_more_than_one() -> None:
    """Their gradients are added up in fp32."""
    found = []
    for settings in ({"precision": "fp32"}, {"precision": "bf16"}, {"precision": "bf16", "microbatch": 1}):
        parts, engine = built("clip", batch=96, **settings)
        parts.model.eval()
        engine.gradients(next(engine.batches(0)))
        found.append(torch.cat([p.grad.flatten() for p in parts.model.parameters() if p.grad is not None]))
    exact, *rough = found
    at_once, one_by_one = ((g - exact).norm() / exact.norm() for g in rough)
    assert 1e-4 < at_once < 0.05
    assert one_by_one < 1.2 * at_once


MASKED = MODEL | {
    "encoders": {m: {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.4} for m in "abc"},
    "fusion": {"name": "mlp", "hidden": 16, "dropout": 0.2, "masking": 0.3},
}


@torch.no_grad()
def move(parameters: list[torch.Tensor], ways: list[torch.Tensor], by: float) -> None:
    for p, way in zip(parameters, ways, strict=True):
        p.add_(way, alpha=by)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clip", "confu"])
@pytest.mark.parametrize("locked", [(), ("a",), ("b",), ("a", "c")])
def test_with_micro_batches_and_dropout_the_gradient_is_the_slope_of_the_loss(
    objective: str, locked: tuple[str, ...]
) -> None:
    """Along a random direction, against the difference of two losses at the same step, so with the same dropout.

    When the second forward of a micro-batch draws other numbers than the first, they differ by a fifth. A locked tower
    draws in the first one only.
    """
    parts, engine = built(objective, microbatch=8, model=MASKED | {"head": "tower"})
    for modality in locked:
        parts.model.encoders[modality].requires_grad_(False)
    batch = next(engine.batches(0))
    engine.gradients(batch)
    trained = [p for p in parts.model.parameters() if p.grad is not None]
    gradient = [p.grad.clone() for p in trained]
    norm, numbers = torch.stack([g.norm() for g in gradient]).norm(), sum(g.numel() for g in gradient)
    draws = torch.Generator().manual_seed(seed := random.SystemRandom().randrange(2**31))
    ways = [g / norm + torch.randn(g.shape, generator=draws) / numbers**0.5 for g in gradient]
    found, h = [], 1e-3
    for to in (h, -h):
        move(trained, ways, to)
        found.append(engine.gradients(batch).total.item())
        move(trained, ways, -to)
    slope = sum((g * way).sum().item() for g, way in zip(gradient, ways, strict=True))
    assert (found[0] - found[1]) / (2 * h) == pytest.approx(slope, rel=0.02), f"seed {seed}"


def test_every_micro_batch_of_every_step_has_a_dropout_mask_of_its_own_twice() -> None:
    parts, engine = built(microbatch=8, model=MASKED, **{"for": "3 steps"})
    masks: list[torch.Tensor] = []
    dropout = next(m for m in parts.model.encoders["b"].modules() if isinstance(m, torch.nn.Dropout))
    dropout.register_forward_hook(lambda _, __, out: masks.append(out == 0))
    engine.fit()
    steps = [masks[i : i + 6] for i in range(0, len(masks), 6)]  # three micro-batches, embedded twice
    assert len(steps) == 3
    for step in steps:
        assert all(torch.equal(first, second) for first, second in zip(step[:3], step[3:], strict=True))
    different = [mask for step in steps for mask in step[:3]]
    assert not any(torch.equal(a, b) for a, b in combinations(different, 2))
    assert 0.3 < torch.stack(different).float().mean() < 0.5


def test_another_seed_of_the_run_draws_other_dropout_masks() -> None:
    found = []
    for seed in (0, 1, 0):
        parts, engine = built(model=MASKED, seed=seed, **{"for": "1 steps"})
        dropout = next(m for m in parts.model.encoders["b"].modules() if isinstance(m, torch.nn.Dropout))
        dropout.register_forward_pre_hook(lambda _, x: (torch.ones_like(x[0]),))
        dropout.register_forward_hook(lambda _, __, out: found.append(out == 0))
        engine.fit()
    first, other, again = found
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_part_of_the_model_draws_numbers_of_its_own() -> None:
    parts, engine = built(model=MASKED, **{"for": "1 steps"})
    masks = []
    for encoder in parts.model.encoders.values():
        dropout = next(m for m in encoder.modules() if isinstance(m, torch.nn.Dropout))
        dropout.register_forward_pre_hook(lambda _, x: (torch.ones_like(x[0]),))
        dropout.register_forward_hook(lambda _, __, out: masks.append(out == 0))
    engine.fit()
    assert len(masks) == 3
    assert not any(torch.equal(one, other) for one, other in combinations(masks, 2))


@pytest.mark.parametrize(("rows", "size"), [(10, 4), (10, 5), (3, 4), (7, 1), (7, None)])
def test_micro_batches_hold_every_row_once_and_in_order(rows: int, size: int | None) -> None:
    ids = torch.arange(rows)
    batch = Batch({"a": ids[:, None].clone()}, {"a": ids[:, None] % 2 == 0}, ids)
    chunks = split(batch, size)
    assert torch.equal(torch.cat([chunk.inputs["a"] for chunk in chunks]), batch.inputs["a"])
    assert torch.equal(torch.cat([chunk.valid["a"] for chunk in chunks]), batch.valid["a"])
    assert [len(chunk.inputs["a"]) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert torch.equal(torch.cat([ids[chunk.at] for chunk in chunks]), ids)
