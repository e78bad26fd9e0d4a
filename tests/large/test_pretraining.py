"""The pretraining recipes with their own towers, precision and objective: the command itself, on tars of real pictures.

The trap: ViT-L/14 and its optimizer are 7 GB, its checkpoint is 5; so one at a time, and nothing is left on the disk.
`just test-large` runs them and prints what they took.
"""

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import workbench
from workbench.build import build_parts
from workbench.builders.emoji_shards import build
from workbench.runs.folder import find_checkpoint, read_recipe
from workbench.training.metrics import Record, read

pytestmark = [pytest.mark.large, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build(out := tmp_path_factory.mktemp("shards"))
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def start(recipe: str, run: Path, tars: Path, *settings: str) -> subprocess.Popen[bytes]:
    without = ("eval.best=null", "eval.retrieval=null", "data.validation=null")
    settings = (f"data.path={tars}/train-*.tar", *without, "parallel.workers=1", "log.tensorboard=false", *settings)
    command = [sys.executable, "-m", "workbench", "pretrain", f"recipes/{recipe}.yaml", "--run", str(run)]
    return subprocess.Popen([*command, *(part for setting in settings for part in ("--set", setting))])


def finish(process: subprocess.Popen[bytes], run: Path) -> list[Record]:
    """The metrics of its steps."""
    assert process.wait() == 0
    steps = [record for record in read(run / "metrics.jsonl") if "train/loss" in record]
    seconds = sorted(record["time/step"] for record in steps)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest so far
    print(f"{run.name}: {seconds[len(seconds) // 2]:.1f} s a step, {peak:.1f} GiB")
    return steps


def weights(run: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(find_checkpoint(run, "last") / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118  # no mapping
            yield name, file.get_tensor(name)


def untimed(steps: list[Record]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if not name.startswith("time/")} for record in steps]


def test_vit_l14_takes_two_steps_and_every_weight_moves(folder: Path, tars: Path) -> None:
    run = folder / "ito_l14"
    steps = finish(start("ito_l14", run, tars, "train.for=2 steps", "train.batch=2"), run)
    assert [record["step"] for record in steps] == [1, 2]
    assert all(np.isfinite(record["train/loss"]) and record["train/grad_norm"] > 0 for record in steps)
    parts = build_parts(read_recipe(run))
    drawn = {f"model.{name}": x for name, x in parts.model.named_parameters()}
    drawn |= {f"objective.{name}": x for name, x in parts.objective.named_parameters()}
    found = dict.fromkeys(drawn, 0)
    for name, x in weights(run):
        assert x.isfinite().all(), name
        assert not torch.equal(x, drawn[name]), name
        found[name] = x.numel()
    assert f"{sum(found.values()) / 1e6:.1f} M" == "441.8 M"
    assert all(found.values())
    del parts, drawn
    model = workbench.load(run)
    picture = Image.fromarray(np.random.default_rng().integers(0, 256, (90, 70, 3), dtype=np.uint8))
    similarity = model.encode_image([picture]) @ model.encode_text(["a picture"]).T
    assert similarity.shape == (1, 1)
    assert similarity.abs() <= 1 + 1e-5


def test_vit_b16_stops_halfway_and_resumes_bitwise(folder: Path, tars: Path) -> None:
    whole, halved = folder / "whole", folder / "halved"
    settings = ("train.for=20 steps", "train.batch=2")
    expected = finish(start("ito_b16_cc12m", whole, tars, *settings), whole)
    process = start("ito_b16_cc12m", halved, tars, *settings)
    while process.poll() is None and len(read(halved / "metrics.jsonl")) < 10:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process, halved)
    assert 10 <= stopped[-1]["step"] < 20
    found = finish(start("ito_b16_cc12m", halved, tars, *settings), halved)
    assert [record["step"] for record in found] == list(range(1, 21))
    assert untimed(found) == untimed(expected)
    for (name, x), (other, y) in zip(weights(halved), weights(whole), strict=True):
        assert name == other
        assert torch.equal(x, y), name
