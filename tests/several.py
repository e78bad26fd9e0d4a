"""What tests of several processes share: small towers to train, when two trainings are one, and the start."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from forked import server

from workbench.training.metrics import Record

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
train: {for: 4 steps, batch: 16, microbatch: 8, lr: 0.01, clip: 0.5}
eval: {every: 2 steps, start: false, gap: {name: gap, split: validation, max_pairs: 64}}
checkpoint: {every: 2 steps}
parallel: {workers: 0}
log: {tensorboard: false}
"""


def assert_same(
    one: tuple[list[Record], dict[str, Any]], other: tuple[list[Record], dict[str, Any]], what: object = ""
) -> None:
    """Of each: the records of its steps, the weights."""
    for a, b in zip(*([r for r in run[0] if "train/loss" in r] for run in (one, other)), strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5), what
        assert a["train/grad_norm"] == pytest.approx(b["train/grad_norm"], rel=1e-4), what
    assert one[1].keys() == other[1].keys(), what
    for name in one[1]:
        assert torch.allclose(one[1][name], other[1][name], atol=2e-5, rtol=1e-4), (name, what)


def spawn(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(rank, ...)` in each of so many processes, which find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.start_processes(process, (world, port, work, arguments), nprocs=world, start_method=server.get_start_method())


def process(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    work(rank, *arguments)
