"""Two processes are one process, and four are too: the same losses and the same weights, micro-batches included."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from workbench.build import build_engine, build_parts
from workbench.metrics import Metrics, Record, read
from workbench.parallel import Parallel
from workbench.recipe import load_recipe

RECIPE = """
name: pair
data: {name: synthetic, task: xor, samples: 200}
model: {dim: 8, head: linear, encoders: {a: mlp, b: mlp, c: mlp}, fusion: {name: deep_set, hidden: 16, dropout: 0.0}}
objective: OBJECTIVE
train: {for: 14 steps, batch: 24, microbatch: 12, lr: 0.01}
checkpoint: {every: 14 steps}
parallel: {workers: 0}
log: {tensorboard: false}
"""
OBJECTIVES = (
    "clip",
    "siglip",
    "symile",
    "{name: symile, negatives: n_squared}",
    "{name: confu, scale: {learn: true}}",
    "confu_chain",
)
TOWERS = """
name: towers
data: {name: emoji, views: 2, captions: 2}
model:
  dim: 16
  encoders:
    image: {name: open_clip, config: {image_size: 32, layers: 2, width: 32, head_width: 16, patch_size: 16}}
    text: {name: open_clip, config: {context_length: 8, width: 16, heads: 2, layers: 2}}
  fusion: {name: transformer, layers: 1, heads: 2}
objective: ito
train: {for: 6 steps, batch: 16, microbatch: 8, lr: 0.01, clip: 0.5}
eval: {every: 3 steps, gap: {split: validation}}
parallel: {workers: 0, strategy: STRATEGY}
log: {tensorboard: false}
"""
Trained = dict[str, tuple[list[Record], dict[str, Any]]]


def write_recipe(folder: Path, objective: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("OBJECTIVE", objective))
    return path


def assert_same(one: tuple[list[Record], dict[str, Any]], other: tuple[list[Record], dict[str, Any]]) -> None:
    """Of each: the records of its steps, the weights."""
    for a, b in zip(one[0], other[0], strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5)
        assert a["train/grad_norm"] == pytest.approx(b["train/grad_norm"], rel=1e-4)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        assert torch.allclose(one[1][name], other[1][name], atol=2e-5, rtol=1e-4), name


def train_all(folder: Path, objectives: tuple[str, ...]) -> Trained:
    """{objective: its records and weights}, in this process or in its share of several."""
    parallel, found = Parallel(), {}
    for objective in objectives:
        parts, metrics = build_parts(load_recipe(write_recipe(folder, objective))), Metrics(None)
        build_engine(parts, parallel, metrics).fit()
        found[objective] = (metrics.records, {**parts.model.state_dict(), **parts.objective.state_dict()})
    parallel.close()
    return found


def process(rank: int, world: int, port: int, folder: Path, objectives: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    mine = folder / str(rank)
    mine.mkdir()
    torch.save(train_all(mine, objectives), mine / "found")


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_equal_one(tmp_path: Path, world: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    objectives = OBJECTIVES if world == 2 else ("{name: confu, scale: {learn: true}}", "siglip")
    mp.spawn(process, (world, port, tmp_path, objectives), nprocs=world)
    one = train_all(tmp_path, objectives)
    for rank in range(world):
        found = torch.load(tmp_path / str(rank) / "found")
        for objective in objectives:
            assert len(one[objective][0]) == 14
            assert_same(one[objective], found[objective])


@pytest.mark.slow
def test_the_command_with_two_processes_equals_one(tmp_path: Path) -> None:
    recipe, trained = write_recipe(tmp_path, "confu"), []
    for nproc in (1, 2):
        out = tmp_path / f"run{nproc}"
        command = [sys.executable, "-m", "workbench", "pretrain", str(recipe), "--run", str(out), "--nproc", str(nproc)]
        threads = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=threads)
        assert done.returncode == 0, done.stderr
        weights = load_file(out / "checkpoints" / "step-14" / "model.safetensors")
        trained.append(([r for r in read(out / "metrics.jsonl") if "train/loss" in r], weights))
    assert_same(*trained)
