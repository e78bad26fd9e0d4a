"""Batches that fit: what a step is counted to hold is what a real one holds, and the largest batch is the last one."""

import pytest

from workbench.bench.batch_fits import _largest, _noise, describe
from workbench.build import build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.runs.cost import cost
from workbench.runs.live_memory import LiveMemory

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 8, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 8, "vocab_size": 49408},
}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    monkeypatch.setattr(open_clip, "get_model_config", lambda model: SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_count_is_that_of_a_real_step(recomputes: bool, precision: str) -> None:
    recipe = describe("small", 32, recomputes=recomputes, precision=precision)
    engine = build_engine(build_parts(recipe), Parallel())
    batch = _noise(engine, 32)
    with LiveMemory(engine.model.parameters(), (*engine.model.buffers(), *batch.inputs.values())) as memory:
        engine.gradients(batch)
    found = cost(recipe)
    assert memory.peak_besides == pytest.approx(found.activation_bytes, rel=0.02)


@pytest.mark.slow
def test_recomputing_spares_most_activations() -> None:
    plain, spared = (cost(describe("small", 32, recomputes=again)).activation_bytes for again in (False, True))
    assert spared < 0.6 * plain


def test_the_largest_number_that_fits() -> None:
    assert [_largest(room, lambda n: 10 + 3 * n) for room in (12.9, 13, 100, 1000)] == [0, 1, 30, 330]
