"""Training on a CUDA device: the numbers of the CPU, in bf16 and compiled close to them, and no hidden wait."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from workbench.build import build_engine, build_parts, prepare
from workbench.distributed.processes import Parallel
from workbench.engine import Engine
from workbench.recipe.schema import parse_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOWERS: dict[str, Any] = {
    "name": "towers",
    "data": {"name": "emoji", "views": 2, "captions": 2},
    "model": {
        "dim": 64,
        "encoders": {
            "image": {
                "name": "open_clip",
                "config": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
            },
            "text": {"name": "open_clip", "config": {"context_length": 8, "width": 64, "heads": 2, "layers": 2}},
        },
        "fusion": {"name": "transformer", "layers": 1, "heads": 2},
    },
    "parallel": {"workers": 0},
}


def engine(objective: Any, **train: Any) -> Engine:
    settings = {"for": "8 steps", "batch": 48, "lr": 1e-3} | train
    recipe = parse_recipe(TOWERS | {"objective": objective, "train": settings})
    parallel = Parallel()
    return build_engine(prepare(build_parts(recipe), parallel), parallel)


def losses(objective: Any, **train: Any) -> torch.Tensor:
    run = engine(objective, **train)
    run.fit()
    return torch.tensor([record["train/loss"] for record in run.metrics.records])


@pytest.mark.parametrize("objective", ["clip", "siglip", "ito"])
def test_the_numbers_are_those_of_the_cpu(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, order and augmentation are drawn on the CPU, so nothing but rounding differs."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = losses(objective, microbatch=16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.testing.assert_close(found, losses(objective, microbatch=16), rtol=2e-3, atol=0)


@pytest.mark.parametrize("train", [{"precision": "bf16"}, {"precision": "bf16", "compile": True}])
def test_bf16_and_compiled_towers_stay_close(train: dict[str, Any]) -> None:
    exact, rough = losses("ito"), losses("ito", **train)
    assert rough.isfinite().all()
    torch.testing.assert_close(rough, exact, rtol=3e-2, atol=0)


@pytest.mark.parametrize("objective", ["clip", "siglip", "ito"])
def test_a_step_waits_for_the_device_in_the_guard_alone(objective: str) -> None:
    """The NaN guard reads one number a step; without it, nothing does."""
    run = engine(objective, precision="bf16", clip=1.0)
    run.callbacks = []
    run.model.train()
    batches = run.batches(0)

    def step() -> None:
        batch = next(batches)
        _pinned([*batch.inputs.values(), *batch.valid.values(), batch.ids])
        run.train_step(batch.to(run.parallel.device))

    step()  # compiles kernels, and makes the optimizer's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _pinned(tensors: Sequence[torch.Tensor]) -> None:
    assert all(x.is_pinned() for x in tensors), "only pinned memory is copied while the device computes"


def test_the_optimizer_is_the_fused_one_and_states_stay_on_the_device() -> None:
    run = engine("clip", **{"for": "1 steps"})
    run.fit()
    assert all(group["fused"] for group in run.optimizer.param_groups)
    assert all(p.is_cuda for p in [*run.model.parameters(), *run.objective.parameters()])
    moments = [state["exp_avg"] for state in run.optimizer.state.values()]
    assert moments
    assert all(m.is_cuda for m in moments)
