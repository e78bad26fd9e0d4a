"""Two processes are one process: the same losses and the same weights, micro-batches included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.metrics import read

RECIPE = """
name: pair
data: {name: synthetic, task: xor, samples: 200}
model: {dim: 8, head: linear, encoders: {a: mlp, b: mlp, c: mlp}, fusion: {name: mlp, hidden: 16, dropout: 0.0}}
objective: OBJECTIVE
train: {for: 14 steps, batch: 24, microbatch: 12, lr: 0.01}
checkpoint: {every: 14 steps}
parallel: {workers: 0}
log: {tensorboard: false}
"""


def run(folder: Path, objective: str, nproc: int) -> Path:
    recipe, out = folder / "recipe.yaml", folder / f"run{nproc}"
    recipe.write_text(RECIPE.replace("OBJECTIVE", objective))
    command = [sys.executable, "-m", "workbench", "pretrain", str(recipe), "--run", str(out), "--nproc", str(nproc)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", ["{name: confu, scale: {learn: true}}", "siglip", "symile", "{name: symile, negatives: n_squared}"]
)
def test_two_processes_equal_one(tmp_path: Path, objective: str) -> None:
    one, two = (run(tmp_path, objective, nproc) for nproc in (1, 2))
    for a, b in zip(read(one / "metrics.jsonl"), read(two / "metrics.jsonl"), strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5)
        assert a["train/grad_norm"] == pytest.approx(b["train/grad_norm"], rel=1e-4)
    weights = [load_file(r / "checkpoints" / "step-14" / "model.safetensors") for r in (one, two)]
    for name in weights[0]:
        assert torch.allclose(weights[0][name], weights[1][name], atol=2e-5, rtol=1e-4), name
