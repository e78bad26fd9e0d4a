"""Two processes are one process, and four are too: the same losses and the same weights, micro-batches included."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from forked import run, wb
from safetensors.torch import load_file
from several import assert_same, spawn

from workbench.build import build_engine, build_parts, prepare
from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import gather_full
from workbench.recipe.schema import load_recipe
from workbench.training.metrics import Metrics, Record, read

RECIPE = """
name: pair
data: {name: synthetic, task: xor, samples: 100}
model: {dim: 8, head: linear, encoders: {a: mlp, b: mlp, c: mlp}, fusion: {name: deep_set, hidden: 16, dropout: 0.0}}
objective: OBJECTIVE
train: {for: 3 steps, batch: 24, microbatch: 12, lr: 0.01}
checkpoint: {every: 3 steps}
parallel: {workers: 0}
log: {tensorboard: false}
"""
VIEWS = """
import torch
from workbench.types import Modality, Sample

class Pairs:
    '''Two noisy looks of each modality at one of 100 points.'''
    def __init__(self):
        self.modalities = {m: Modality("vector", (6,), count=2) for m in "ab"}
    def __len__(self):
        return 100
    def sample(self, index, rng):
        point = torch.randn(6, generator=torch.Generator().manual_seed(index))
        looks = torch.from_numpy(rng.normal(size=(2, 2, 6))).float()
        return Sample({m: list(point + 0.1 * noise) for m, noise in zip("ab", looks)}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
"""
CONFU = "{name: confu, scale: {learn: true}}"
IN_SHARES, IN_COPIES = ("parallel.strategy=fsdp",), ("parallel.strategy=fsdp", "parallel.copies=2")


class Case(NamedTuple):
    """A training, and what several processes do otherwise than one."""

    objective: str
    settings: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    recipe: str = RECIPE


# of its MLPs, one a subset, a step uses some: those that it does not use must stay as they are, without weight decay
CHAIN = Case("confu_chain", ("model.fusion={name: mlp, hidden: 16, dropout: 0.0}", "train.weight_decay=0.5"))
VIEWS_OF_TWO = RECIPE.replace("{name: synthetic, task: xor, samples: 100}", "VIEWS:Pairs").replace(", c: mlp", "")
ITO = Case("ito", recipe=VIEWS_OF_TWO)
CASES = {
    2: [
        *map(Case, ("clip", "siglip", "symile", "{name: symile, negatives: n_squared}", CONFU)),
        CHAIN,
        CHAIN._replace(several=IN_SHARES),
        ITO,
    ],
    4: [
        Case("siglip", several=IN_SHARES),
        Case(CONFU),
        Case(CONFU, several=IN_COPIES),
        CHAIN,
        ITO,
    ],
}
Trained = list[tuple[list[Record], dict[str, Any]]]


def write_recipe(folder: Path, objective: str, recipe: str = RECIPE) -> Path:
    path, views = folder / "recipe.yaml", folder / "views.py"
    views.write_text(VIEWS)
    path.write_text(recipe.replace("OBJECTIVE", objective).replace("VIEWS", str(views)))
    return path


def train_all(folder: Path, cases: list[Case], alone: bool = False) -> Trained:
    """Records and weights of each, in this process or in its share of several."""
    parallel, found = Parallel.join(), []
    for case in cases:
        path = write_recipe(folder, case.objective, case.recipe)
        recipe = load_recipe(path, case.settings if alone else case.settings + case.several)
        parts, metrics = prepare(build_parts(recipe), parallel), Metrics(None)
        build_engine(parts, parallel, metrics).fit()
        weights = {**parts.model.state_dict(), **parts.objective.state_dict()}
        found.append((metrics.records, {name: gather_full(x).clone() for name, x in weights.items()}))
    parallel.leave()
    return found


def train_share(rank: int, folder: Path, cases: list[Case]) -> None:
    mine = folder / str(rank)
    mine.mkdir()
    torch.save(train_all(mine, cases), mine / "found")


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"process 1 of this machine has no GPU of its own, it has 1: start as many"):
        Parallel()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_equal_one(tmp_path: Path, world: int) -> None:
    spawn(world, train_share, tmp_path, CASES[world])
    one = train_all(tmp_path, CASES[world], alone=True)
    for rank in range(world):
        found = torch.load(tmp_path / str(rank) / "found")
        for case, alone, shared in zip(CASES[world], one, found, strict=True):
            assert alone[0], case
            assert_same(alone, shared, case)


def unfreeze(rank: int) -> None:
    """A callback may do that in the middle of a run."""
    parallel, layer = Parallel.join(), torch.nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    wrapped = parallel.wrap_in_ddp(layer)
    layer.bias.requires_grad_(True)
    (rank * wrapped(torch.ones(1, 2))).sum().backward()
    parallel.average_gradients(layer.parameters())
    for p in layer.parameters():
        assert p.grad is not None
        assert p.grad.unique().tolist() == [0.5]
    parallel.leave()


@pytest.mark.slow
def test_what_was_frozen_when_the_processes_met_is_averaged_too() -> None:
    spawn(2, unfreeze)


@pytest.mark.slow
def test_the_command_with_two_processes_and_torchrun_equal_one(tmp_path: Path) -> None:
    """Those of --nproc are started as a user's are, from nothing; torchrun forks its own."""
    recipe, trained = write_recipe(tmp_path, "confu"), []
    starts: dict[str, Callable[[Sequence[str]], subprocess.CompletedProcess[str]]] = {
        "one": lambda words: wb(*words),
        "two": lambda words: wb(*words, "--nproc=2"),
        "torchrun": lambda words: run(words, module="forked_torchrun", OMP_NUM_THREADS="1"),
    }
    for name, start in starts.items():
        done = start(["pretrain", str(recipe), "--run", str(tmp_path / name)])
        assert done.returncode == 0, done.stderr
        weights = load_file(tmp_path / name / "checkpoints" / "step-3" / "model.safetensors")
        trained.append((read(tmp_path / name / "metrics.jsonl"), weights))
    assert_same(trained[0], trained[1])
    losses = [[record["train/loss"] for record in records] for records, _ in trained[1:]]
    assert losses[0] == losses[1]
    assert all(torch.equal(trained[1][1][name], x) for name, x in trained[2][1].items())
