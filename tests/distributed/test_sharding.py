"""Weights divided by FSDP2: they train like whole ones, in bf16 too, and any number of processes reads them."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm.layers
import torch
from several import TOWERS, assert_same, spawn
from tiny_transformers import make
from torch.distributed.tensor import DTensor

import workbench
from workbench.build import build_engine, build_parts, prepare
from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import divide, gather_full
from workbench.engine import Callback, Engine, Logs
from workbench.model import Model
from workbench.recipe.schema import load_recipe
from workbench.runs.inference import evaluate_run
from workbench.runs.train import train
from workbench.training import checkpoint
from workbench.training.metrics import Metrics, read


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, engine: Engine, logs: Logs) -> None:
        engine.stop_requested = engine.step == self.step


def train_until(_: int, folder: Path, run: str, step: int, *overrides: str) -> None:
    outcome = train(load_recipe(folder / "towers.yaml", overrides), folder / run, callbacks=[StopAt(step)])
    assert outcome.step == step


@pytest.mark.slow
def test_divided_weights_train_like_whole_ones_and_are_saved_for_any_number_of_processes(tmp_path: Path) -> None:
    (tmp_path / "towers.yaml").write_text(TOWERS)
    train_until(0, tmp_path, "whole", 4)
    train_until(0, tmp_path, "run", 1)
    spawn(2, train_until, tmp_path, "run", 3, "parallel.strategy=fsdp")
    saved = tmp_path / "run" / "checkpoints" / "step-3"
    assert len(list((saved / "model").glob("*.safetensors"))) == 2
    assert (saved / "optimizer").is_dir()
    seen = next(r for r in read(tmp_path / "run" / "metrics.jsonl") if r["step"] == 2 and "eval/gap/l2m" in r)
    _, afterwards = evaluate_run(tmp_path / "run", "2")
    assert afterwards == pytest.approx({name: seen[f"eval/{name}"] for name in afterwards}, rel=1e-5)
    train_until(0, tmp_path, "run", 4)
    runs = [tmp_path / name for name in ("whole", "run")]
    weights = [checkpoint.read(run / "checkpoints" / "step-4", "model") for run in runs]
    moments = [checkpoint.read(run / "checkpoints" / "step-4", "optimizer") for run in runs]
    assert_same(*((read(run / "metrics.jsonl"), w) for run, w in zip(runs, weights, strict=True)))
    assert moments[0].keys() == moments[1].keys()
    for name in moments[0]:
        assert torch.allclose(moments[0][name], moments[1][name], atol=1e-5, rtol=1e-3), name
    texts = ["red heart", "fire engine"]
    one, other = (workbench.load(run).encode_text(texts) for run in runs)
    assert torch.allclose(one, other, atol=1e-4)
    assert (runs[1] / "DONE").exists()


LOCKED = ("model.encoders.image.lock=1", "model.encoders.text.lock=2")
ENDS = ("objective=clip", "model.fusion=null")  # no tokens: each process reads texts up to its own longest
SETTINGS = ((), LOCKED, ("model.encoders.text.lock=0",), ("train.microbatch=null",), ENDS)


def first_gradients(
    rank: int, folder: Path, choices: tuple[tuple[str, ...], ...] = SETTINGS, precisions: tuple[str, ...] = ("bf16",)
) -> None:
    """Of a longer training nothing could be told: in bf16 the last digit of a gradient is soon the third of a loss."""
    parallel, found = Parallel.join(), []
    for precision, own, strategy in product(precisions, choices, ("ddp", "fsdp")):
        settings = (f"train.precision={precision}", "train.microbatch=4", f"parallel.strategy={strategy}", *own)
        parts = prepare(build_parts(load_recipe(folder / "towers.yaml", settings)), parallel)
        engine = build_engine(parts, parallel, Metrics(None))
        engine.model.train()
        loss = engine.gradients(next(engine.batches(0)))
        parallel.average_gradients(engine.model.parameters())
        gradients = {n: gather_full(p.grad).clone() for n, p in engine.model.named_parameters() if p.grad is not None}
        found.append(gradients | {"loss": loss.total.detach()})
    torch.save(found, folder / f"{rank}.found")
    parallel.leave()


@pytest.mark.slow
def test_matrices_that_travel_in_bf16_change_nothing_that_is_computed_in_bf16(tmp_path: Path) -> None:
    (tmp_path / "towers.yaml").write_text(TOWERS)
    spawn(2, first_gradients, tmp_path)
    found = torch.load(tmp_path / "1.found")
    for ddp, fsdp, own in zip(found[::2], found[1::2], SETTINGS, strict=True):
        assert ddp.keys() == fsdp.keys(), own
        for name, x in ddp.items():
            torch.testing.assert_close(fsdp[name], x, rtol=1e-5, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_towers_of_transformers_are_divided_too(tmp_path: Path) -> None:
    """A BERT and a vision transformer, of which some layers are locked; tokens go into the fusion; fp32 and bf16."""
    pytest.importorskip("transformers")
    vit, bert = (f"{{name: transformers, model: {make(tmp_path, name)}, lock: 1}}" for name in ("vit", "bert"))
    towers = re.sub(r"image: \{name: .*\}\}", f"image: {vit}", TOWERS)
    (tmp_path / "towers.yaml").write_text(re.sub(r"text: \{name: .*\}\}", f"text: {bert}", towers))
    unlocked = ("model.encoders.image.lock=null", "model.encoders.text.lock=null")
    spawn(2, first_gradients, tmp_path, ((), unlocked), ("fp32", "bf16"))
    found = torch.load(tmp_path / "0.found")
    for ddp, fsdp in zip(found[::2], found[1::2], strict=True):
        assert ddp.keys() == fsdp.keys()
        assert any(name.startswith("encoders.text.tower") for name in ddp)
        for name, x in ddp.items():
            torch.testing.assert_close(fsdp[name], x, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def see_dtypes(_: int) -> None:
    parallel, nn = Parallel.join(), torch.nn
    plain = nn.Sequential(nn.LayerNorm(8), nn.MultiheadAttention(8, 2), nn.Conv2d(1, 1, 2))
    special = nn.Sequential(timm.layers.StdConv2d(1, 1, 2), nn.Linear(2, 2))
    encoder: Any = nn.Sequential(plain, special)
    encoder.repeated = lambda: [plain, special]
    divide(Model({"a": encoder}, {}, None), parallel.mesh(), "bf16")
    for block in encoder:
        block.unshard()
    for name, p in encoder.named_parameters():
        in_bf16 = p.ndim >= 2 and name.startswith("0.")
        assert p.dtype == (torch.bfloat16 if in_bf16 else torch.float32), name
        assert not isinstance(p, DTensor), name
    parallel.leave()


@pytest.mark.slow
def test_only_matrices_that_autocast_would_round_travel_in_bf16() -> None:
    """Not those of a block that does something else with one: weight-standardised convolutions do it in fp32."""
    spawn(2, see_dtypes)


def test_copies_that_do_not_come_out_even_are_refused(tmp_path: Path) -> None:
    (tmp_path / "towers.yaml").write_text(TOWERS)
    with pytest.raises(
        ValueError, match=r"cannot be had of 1: start a multiple with --nproc, or set parallel.strategy"
    ):
        train_until(0, tmp_path, "run", 2, "parallel.strategy=fsdp")
    with pytest.raises(ValueError, match=r"checkpoint.async=false"):
        load_recipe(tmp_path / "towers.yaml", ("parallel.strategy=fsdp", "checkpoint.async=true"))
