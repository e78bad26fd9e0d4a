"""The loop repeats itself, calls its hooks in order, logs what it did, and stops before a bad update."""

import time
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from small_engines import MODEL, TOWERS, built, losses, weights

from workbench.build import build_engine, build_parts, compile_blocks
from workbench.callbacks.nan_guard import NaNGuard, NotFinite
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine, Logs
from workbench.recipe.schema import parse_recipe
from workbench.training.metrics import Metrics


@pytest.mark.slow
def test_a_run_repeats_itself_bitwise_and_another_seed_does_not() -> None:
    runs = []
    for seed in (5, 5, 6):
        parts, engine = built(seed=seed)
        engine.fit()
        runs.append((losses(engine), weights(parts)))
    (a, wa), (b, wb), (c, _) = runs
    assert a == b
    assert all(torch.equal(wa[name], wb[name]) for name in wa)
    assert not set(a) & set(c)


@pytest.mark.slow
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


def norm_of(engine: Engine) -> float:
    both = [*engine.model.parameters(), *engine.objective.parameters()]
    return torch.stack([p.grad.norm() for p in both if p.grad is not None]).norm().item()


@pytest.mark.slow
def test_gradients_are_clipped_and_the_norm_before_that_is_logged() -> None:
    _, engine = built({"name": "confu", "scale": {"learn": True}}, clip=0.1)
    clipped, unclipped = [], []

    class Norms(Callback):
        def on_gradients(self, engine: Engine, logs: Logs) -> None:
            clipped.append(norm_of(engine))
            engine.optimizer.zero_grad()
            engine.gradients(next(engine.batches(engine.step)))
            unclipped.append(norm_of(engine))

    engine.callbacks.append(Norms())
    engine.fit()
    assert clipped == pytest.approx([0.1] * 12, rel=1e-4)
    assert all(norm > 1 for norm in unclipped)
    assert [r["train/grad_norm"] for r in engine.metrics.records] == pytest.approx(unclipped, rel=1e-5)


@pytest.mark.slow
def test_weights_at_on_gradients_are_those_before_the_update_and_at_on_step_those_after() -> None:
    """The guard against NaN rests on it: what raises at on_gradients leaves the weights alone."""
    parts, engine = built()
    seen: list[tuple[str, dict[str, torch.Tensor]]] = []

    class Weights(Callback):
        def on_start(self, engine: Engine) -> None:
            seen.append(("start", weights(parts)))

        def on_gradients(self, engine: Engine, logs: Logs) -> None:
            seen.append(("gradients", weights(parts)))

        def on_step(self, engine: Engine, logs: Logs) -> None:
            seen.append(("step", weights(parts)))

    engine.callbacks.append(Weights())
    engine.fit()
    assert [hook for hook, _ in seen] == ["start"] + ["gradients", "step"] * 12
    for (_, before), (hook, now) in pairwise(seen):
        assert all(torch.equal(before[name], now[name]) for name in now) == (hook == "gradients")


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
    engine.callbacks += [NaNGuard(), Poison()]
    before: dict[str, torch.Tensor] = {}

    class Remember(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            before.update(weights(parts))

    engine.callbacks.append(Remember())
    with pytest.raises(NotFinite, match=r"step 4: .*first non-finite gradient: .+\. The update was not made"):
        engine.fit()
    after = weights(parts)
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in after)


def test_a_gradient_that_is_no_number_stops_a_run_whose_loss_is_one() -> None:
    parts, engine = built()
    engine.callbacks.append(NaNGuard())
    weight = next(parts.model.encoders["b"].parameters())
    weight.register_hook(lambda gradient: gradient / 0 if engine.step == 2 else gradient)
    with pytest.raises(NotFinite, match=r"step 3: loss \d.*first non-finite gradient: encoders.b"):
        engine.fit()
    assert engine.step == 2


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


@pytest.mark.slow
@pytest.mark.parametrize(("every", "steps"), [("5 steps", [5, 10, 12]), ("1 epochs", [4, 8, 12]), ("99 steps", [12])])
def test_metrics_are_logged_as_often_as_the_recipe_says_and_at_the_end(every: str, steps: list[int]) -> None:
    _, often = built()
    _, seldom = built(log_every=every)
    often.fit()
    seldom.fit()
    assert [record["step"] for record in seldom.metrics.records] == steps
    assert losses(seldom) == [losses(often)[step - 1] for step in steps]


@pytest.mark.slow
def test_the_clock_tells_the_wait_for_data_from_the_rest_of_a_step() -> None:
    """Lower bounds only: a sleep is never too short."""
    _, engine = built(**{"for": "3 steps"})
    batches = engine.batches

    def slow(start: int) -> Any:
        for batch in batches(start):
            time.sleep(0.05)
            yield batch

    engine.batches = slow
    engine.objective.register_forward_hook(lambda *_: time.sleep(0.03))
    engine.fit()
    for record in engine.metrics.records:
        assert record["time/data"] >= 0.049
        assert record["time/step"] - record["time/data"] >= 0.029
        assert record["time/samples_per_second"] == pytest.approx(24 / record["time/step"])


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


def test_noise_of_an_encoder_reaches_the_vectors_of_a_task() -> None:
    def last_loss(noise: float) -> float:
        encoders = {m: {"name": "mlp", "noise": noise} for m in "abc"}
        _, engine = built(model=MODEL | {"encoders": encoders})
        engine.steps = 2
        engine.fit()
        return losses(engine)[-1]

    assert last_loss(0.0) != last_loss(1.0) == last_loss(1.0)


@pytest.mark.parametrize("microbatch", [None, 8])
def test_a_learned_scale_is_within_its_limit_after_every_step(microbatch: int | None) -> None:
    objective = {"name": "clip", "scale": {"init": 14.0, "max": 15.0, "learn": True}}
    parts, engine = built(objective, microbatch=microbatch, **{"for": "3 steps"})
    seen = []

    class Push(Callback):
        def on_gradients(self, engine: Engine, logs: Logs) -> None:
            for p in parts.objective.parameters():
                p.data.fill_(4.0)  # exp(4) is 54.6

        def on_step(self, engine: Engine, logs: Logs) -> None:
            scale = parts.objective.scale()
            assert scale is not None
            seen.append(scale.item())

    engine.callbacks = [Push()]
    engine.fit()
    assert seen == pytest.approx([15.0] * 3)


def test_data_that_end_are_an_error_that_says_where() -> None:
    _, engine = built()
    endless = engine.batches
    engine.batches = lambda start: islice(endless(start), 5)
    with pytest.raises(ValueError, match="the data end at step 5 of 12"):
        engine.fit()
