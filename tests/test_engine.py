"""The loop: micro-batches are exact, precision and compile work, the guard stops before the update."""

from itertools import islice, pairwise
from typing import Any

import pytest
import torch

from workbench.build import Parts, build_engine, build_parts, compile_blocks
from workbench.callbacks.nan_guard import NotFinite
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine, Logs
from workbench.recipe.schema import parse_recipe
from workbench.training.metrics import Metrics
from workbench.types import Loss

TOWERS = {
    "name": "towers",
    "data": "emoji",
    "model": {
        "dim": 32,
        "encoders": {
            "image": {
                "name": "open_clip",
                "config": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
            },
            "text": {"name": "open_clip", "config": {"context_length": 8, "width": 32, "heads": 2, "layers": 3}},
        },
        "fusion": {"name": "transformer", "heads": 2},
    },
    "objective": "ito",
    "train": {"for": "4 steps", "batch": 4},
    "parallel": {"workers": 0},
}
FUSION = {"name": "mlp", "hidden": 16, "dropout": 0.2}


def built(objective: Any = "confu", **train: Any) -> tuple[Parts, Engine]:
    tree = {"name": "x", "data": {"name": "synthetic", "task": "xor", "samples": 96}, "parallel": {"workers": 0}}
    tree |= {"objective": objective, "train": {"for": "12 steps", "batch": 24, "lr": 0.01} | train}
    tree |= {"model": {"dim": 8, "head": "linear", "encoders": dict.fromkeys("abc", "mlp"), "fusion": FUSION}}
    parts = build_parts(parse_recipe(tree))
    return parts, build_engine(parts, Parallel(), Metrics(None))


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    both = torch.nn.ModuleDict({"model": parts.model, "objective": parts.objective})
    return {name: p.detach().clone() for name, p in both.named_parameters()}


def losses(engine: Engine) -> list[float]:
    return [record["train/loss"] for record in engine.metrics.records]


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


def test_microbatches_recompute_the_same_dropout() -> None:
    _, engine = built(microbatch=8)
    engine.fit()
    _, again = built(microbatch=8)
    again.fit()
    assert losses(engine) == losses(again)


def test_a_run_repeats_itself_bitwise_and_another_seed_does_not() -> None:
    runs = []
    for _ in range(2):
        parts, engine = built()
        engine.fit()
        runs.append((losses(engine), weights(parts)))
    (a, wa), (b, wb) = runs
    assert a == b
    assert all(torch.equal(wa[name], wb[name]) for name in wa)


def test_bf16_trains_close_to_fp32() -> None:
    curves = []
    for precision in ("fp32", "bf16"):
        _, engine = built(precision=precision)
        engine.fit()
        curves.append(torch.tensor(losses(engine)))
    assert not torch.equal(*curves)
    assert torch.allclose(*curves, rtol=0.02)


@pytest.mark.slow
def test_compiled_towers_train_like_eager_ones() -> None:
    curves = []
    for compile_ in (False, True):
        parts, engine = built("clip", compile=compile_, **{"for": "4 steps"})
        engine.fit()
        curves.append(torch.tensor(losses(engine)))
        assert not any("_orig_mod" in name for name in weights(parts))
    assert torch.allclose(*curves, rtol=1e-4)


def test_layers_that_repeat_are_compiled_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_parts(parse_recipe(TOWERS)).model
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled.append(module))
    compile_blocks(model)
    image, text = (model.encoders[m].tower.transformer.resblocks for m in ("image", "text"))
    assert compiled == [*image, *text, *model.fusion.blocks]
    assert len(compiled) == 2 + 3 + 2


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_fusion_says_what_an_eager_one_does() -> None:
    parts = build_parts(parse_recipe(TOWERS))
    batch = next(build_engine(parts, Parallel(), Metrics(None)).batches(0))
    eager = parts.model(batch.inputs, batch.valid, ["image+text"])["image+text"]
    for part in parts.model.fusion.repeated():
        part.compile(dynamic=False)
    found = parts.model(batch.inputs, batch.valid, ["image+text"])["image+text"]
    torch.testing.assert_close(found.z, eager.z, rtol=1e-4, atol=1e-5)


def test_schedule_warms_up_and_reaches_zero() -> None:
    _, engine = built(warmup="4 steps")
    engine.fit()
    rates = [record["train/lr"] for record in engine.metrics.records]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4] == 0.01
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert rates[-1] < 0.001


def test_a_warmup_longer_than_the_run_is_clamped() -> None:
    _, engine = built(warmup="1000 steps")
    engine.fit()
    assert engine.metrics.records[-1]["train/lr"] == pytest.approx(0.01)


def test_only_matrices_of_the_model_decay() -> None:
    parts, engine = built({"name": "confu", "scale": {"learn": True}}, weight_decay=0.3)
    for group in engine.optimizer.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.3) for p in group["params"])
    together = sum(len(group["params"]) for group in engine.optimizer.param_groups)
    assert together == len(list(parts.model.parameters())) + len(list(parts.objective.parameters()))


def test_gradients_are_clipped_to_the_norm_that_is_logged() -> None:
    seen = []

    class Norm(Callback):
        def on_gradients(self, engine: Engine, logs: Logs) -> None:
            total = torch.stack([p.grad.norm() for p in engine.model.parameters() if p.grad is not None]).norm()
            seen.append((float(total), float(logs["grad_norm"])))

    _, engine = built(clip=0.1)
    engine.callbacks.append(Norm())
    engine.fit()
    assert all(after <= 0.1 + 1e-4 and before > 0.1 for after, before in seen)


@pytest.mark.parametrize("poison", ["weight", "input"])
def test_nan_stops_before_the_update_and_names_step_and_parameter(poison: str) -> None:
    parts, engine = built()
    batches = engine.batches

    class Poison(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            if engine.step == 3 and poison == "weight":
                with torch.no_grad():
                    next(parts.model.encoders["b"].parameters())[0, 0] = float("nan")

    def poisoned(start: int) -> Any:
        for i, batch in enumerate(batches(start)):
            if i == 3 and poison == "input":
                batch.inputs["b"][0] = float("inf")
            yield batch

    engine.batches = poisoned
    engine.callbacks.append(Poison())
    before: dict[str, torch.Tensor] = {}

    class Remember(Callback):
        def on_gradients(self, engine: Engine, logs: Logs) -> None:
            before.update(weights(parts))

    engine.callbacks.insert(0, Remember())
    with pytest.raises(NotFinite, match=r"step 4: .*first non-finite gradient: .+\. The update was not made"):
        engine.fit()
    after = weights(parts)
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in after)


def test_metrics_of_every_step_hold_loss_terms_scale_rate_and_clock() -> None:
    _, engine = built()
    engine.fit()
    assert [record["step"] for record in engine.metrics.records] == list(range(1, 13))
    last = engine.metrics.records[-1]
    assert last["samples"] == 12 * 24
    names = {
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "train/scale",
        "train/loss/a+b~c",
        "time/step",
        "time/samples_per_second",
    }
    assert names <= last.keys()


def test_a_stop_request_finishes_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine = built()

    class Stop(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            engine.stop_requested = engine.step == 5

    engine.callbacks.append(Stop())
    engine.fit()
    assert engine.step == 5
    assert not engine.finished


def test_synthetic_batches_are_the_same_from_any_start() -> None:
    _, engine = built()
    whole = list(islice(engine.batches(0), 9))
    later = list(islice(engine.batches(5), 4))
    assert all(torch.equal(a.inputs["a"], b.inputs["a"]) for a, b in zip(whole[5:], later, strict=True))
