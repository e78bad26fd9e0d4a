"""Two processes are one process, and four are too: the same losses and the same weights, micro-batches included."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

import workbench
from workbench import checkpoint
from workbench.build import build_engine, build_parts
from workbench.engine import Callback, Engine, Logs
from workbench.inference import evaluate_run
from workbench.metrics import Metrics, Record, read
from workbench.parallel import Parallel
from workbench.recipe import load_recipe
from workbench.sharding import whole
from workbench.training import train

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
VIEWS = """
import torch
from workbench.types import Modality, Sample

class Pairs:
    '''Two noisy looks of each modality at one of 200 points.'''
    def __init__(self):
        self.modalities = {m: Modality("vector", (6,), count=2) for m in "ab"}
    def __len__(self):
        return 200
    def sample(self, index, rng):
        point = torch.randn(6, generator=torch.Generator().manual_seed(index))
        looks = torch.from_numpy(rng.normal(size=(2, 2, 6))).float()
        return Sample({m: list(point + 0.1 * noise) for m, noise in zip("ab", looks)}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
"""
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
eval: {every: 3 steps, start: false, gap: {name: gap, split: validation}}
checkpoint: {every: 3 steps}
parallel: {workers: 0}
log: {tensorboard: false}
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
VIEWS_OF_TWO = RECIPE.replace("{name: synthetic, task: xor, samples: 200}", "VIEWS:Pairs").replace(", c: mlp", "")
ITO = Case("ito", recipe=VIEWS_OF_TWO)
CASES = {
    2: [
        *map(Case, ("clip", "siglip", "symile", "{name: symile, negatives: n_squared}", CONFU, "confu_chain")),
        CHAIN,
        CHAIN._replace(several=IN_SHARES),
        ITO,
    ],
    4: [
        Case("clip"),
        Case("siglip"),
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


def train_all(folder: Path, cases: list[Case], alone: bool = False) -> Trained:
    """Records and weights of each, in this process or in its share of several."""
    parallel, found = Parallel(), []
    for case in cases:
        path = write_recipe(folder, case.objective, case.recipe)
        recipe = load_recipe(path, case.settings if alone else case.settings + case.several)
        parts, metrics = build_parts(recipe), Metrics(None)
        build_engine(parts, parallel, metrics).fit()
        weights = {**parts.model.state_dict(), **parts.objective.state_dict()}
        found.append((metrics.records, {name: whole(x).clone() for name, x in weights.items()}))
    parallel.close()
    return found


def spawn(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """`work(rank, ...)` in each of so many processes, which find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (world, port, work, arguments), nprocs=world)


def process(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    work(rank, *arguments)


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
    train_until(0, tmp_path, "whole", 6)
    train_until(0, tmp_path, "run", 2)
    spawn(2, train_until, tmp_path, "run", 4, "parallel.strategy=fsdp")
    saved = tmp_path / "run" / "checkpoints" / "step-4"
    assert len(list((saved / "model").glob("*.safetensors"))) == 2
    assert (saved / "optimizer").is_dir()
    train_until(0, tmp_path, "run", 6)
    runs = [tmp_path / name for name in ("whole", "run")]
    weights = [checkpoint.read(run / "checkpoints" / "step-6", "model") for run in runs]
    moments = [checkpoint.read(run / "checkpoints" / "step-6", "optimizer") for run in runs]
    assert_same(*((read(run / "metrics.jsonl"), w) for run, w in zip(runs, weights, strict=True)))
    assert moments[0].keys() == moments[1].keys()
    for name in moments[0]:
        assert torch.allclose(moments[0][name], moments[1][name], atol=1e-5, rtol=1e-3), name
    texts = ["red heart", "fire engine"]
    one, other = (workbench.load(run).encode_text(texts) for run in runs)
    assert torch.allclose(one, other, atol=1e-4)
    assert (runs[1] / "DONE").exists()


class Watch(Callback):
    """What the first block of the image tower computes with."""

    def __init__(self) -> None:
        self.seen: dict[str, set[torch.dtype]] = {}

    def on_start(self, engine: Engine) -> None:
        block = engine.model.encoders["image"].tower.transformer.resblocks[0]

        def see(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            dtypes = {"input": inputs[0].dtype, **{name: p.dtype for name, p in block.named_parameters()}}
            for name, dtype in dtypes.items():
                self.seen.setdefault(name, set()).add(dtype)

        block.ln_2.register_forward_pre_hook(see)


def train_in_bf16(rank: int, folder: Path, run: str, *overrides: str) -> None:
    watch = Watch()
    train(load_recipe(folder / "towers.yaml", ("train.precision=bf16", *overrides)), folder / run, callbacks=[watch])
    torch.save(watch.seen, folder / f"{run}-{rank}")


@pytest.mark.slow
def test_matrices_that_travel_in_bf16_change_nothing_that_is_computed_in_bf16(tmp_path: Path) -> None:
    (tmp_path / "towers.yaml").write_text(TOWERS)
    spawn(2, train_in_bf16, tmp_path, "whole")
    spawn(2, train_in_bf16, tmp_path, "shares", "parallel.strategy=fsdp")
    plain, seen = (torch.load(tmp_path / f"{run}-1") for run in ("whole", "shares"))
    assert plain.pop("input") == seen.pop("input")
    assert {dtype for dtypes in plain.values() for dtype in dtypes} == {torch.float32}
    for name, dtypes in seen.items():
        is_matrix = name in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        assert dtypes == {torch.bfloat16 if is_matrix else torch.float32}, name
    runs = [tmp_path / "whole", tmp_path / "shares"]
    found = [(read(run / "metrics.jsonl"), checkpoint.read(run / "checkpoints" / "step-6", "model")) for run in runs]
    assert all(x.dtype == torch.float32 for x in found[1][1].values())
    assert_same(*found)
    in_the_run = {name: value for name, value in found[1][0][-1].items() if name.startswith("eval/")}
    _, afterwards = evaluate_run(runs[1])
    assert in_the_run == pytest.approx({f"eval/{name}": value for name, value in afterwards.items()}, rel=1e-6)


def test_copies_that_do_not_come_out_even_are_refused(tmp_path: Path) -> None:
    (tmp_path / "towers.yaml").write_text(TOWERS)
    with pytest.raises(
        ValueError, match=r"cannot be had of 1: start a multiple with --nproc, or set parallel.strategy"
    ):
        train_until(0, tmp_path, "run", 2, "parallel.strategy=fsdp")
    with pytest.raises(ValueError, match=r"checkpoint.async=false"):
        load_recipe(tmp_path / "towers.yaml", ("parallel.strategy=fsdp", "checkpoint.async=true"))


@pytest.mark.slow
def test_the_command_with_two_processes_and_torchrun_equal_one(tmp_path: Path) -> None:
    recipe, trained = write_recipe(tmp_path, "confu"), []
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher, options in (("one", [], []), ("two", [], ["--nproc=2"]), ("torchrun", torchrun, [])):
        out = tmp_path / name
        command = [
            *launcher,
            "-m",
            *(["--"] if launcher else []),
            "workbench",
            "pretrain",
            str(recipe),
            "--run",
            str(out),
        ]
        threads = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command, *options], capture_output=True, text=True, timeout=240, env=threads
        )
        assert done.returncode == 0, done.stderr
        weights = load_file(out / "checkpoints" / "step-14" / "model.safetensors")
        trained.append((read(out / "metrics.jsonl"), weights))
    assert_same(trained[0], trained[1])
    losses = [[record["train/loss"] for record in records] for records, _ in trained[1:]]
    assert losses[0] == losses[1]
    assert all(torch.equal(trained[1][1][name], x) for name, x in trained[2][1].items())
