"""Bad samples are replaced by a pure function, named, counted and limited; good ones stay where they were."""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from forked import fork_ranks, wb

from workbench.callbacks.bad_samples import BadSamples
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine, Logs
from workbench.errors import BadSample
from workbench.loading.bad_samples import refuse_too_many
from workbench.loading.feed import Feed
from workbench.recipe.schema import load_recipe
from workbench.runs.train import train
from workbench.training.metrics import Metrics, read
from workbench.types import Batch, Data, Modality, Sample, Skipped

LENGTH = 23


class Numbers:
    """Sample i holds i and a random number; some are bad."""

    modalities: Mapping[str, Modality] = {"x": Modality("vector", (2,))}

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return LENGTH

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        if index in self.bad:
            raise BadSample(f"file {index}", "broken")
        return Sample({"x": [torch.tensor([float(index), rng.random()])]}, index)


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


def batches(bad: set[int], number: int = 11, start: int = 0, **changes: Any) -> list[Batch]:
    feed = Feed(**({"transforms": {"x": noisy}, "batch": 4, "seed": 3} | changes))
    return list(islice(feed.load(Numbers(bad), start), number))


def test_good_samples_stay_where_they_were_and_bad_ones_are_named() -> None:
    bad = set(np.random.default_rng().permutation(LENGTH)[:5].tolist())
    clean, dirty = batches(set()), batches(bad)
    for before, after in zip(clean, dirty, strict=True):
        was_bad = torch.tensor([i in bad for i in before.ids.tolist()])
        assert torch.equal(before.inputs["x"][~was_bad], after.inputs["x"][~was_bad]), bad
        assert not bad & set(after.ids.tolist()), bad
        named = {s.name for s in after.skipped}
        assert named >= {f"file {i}" for i in before.ids.tolist() if i in bad}, bad
    assert {s.reason for b in dirty for s in b.skipped} == {"broken"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_stand_ins_are_the_same_from_any_start_with_any_workers_and_processes(workers: int) -> None:
    bad = {1, 4, 5, 11, 17, 20}
    whole = batches(bad)
    later = batches(bad, 4, start=7, workers=workers)
    halves = [batches(bad, 4, start=7, workers=workers, rank=r, world=2) for r in range(2)]
    for step in range(4):
        one = whole[7 + step]
        assert torch.equal(one.inputs["x"], later[step].inputs["x"])
        assert one.skipped == later[step].skipped
        assert torch.equal(one.inputs["x"], torch.cat([half[step].inputs["x"] for half in halves]))


@pytest.mark.slow
def test_a_stand_in_is_a_random_sample_and_another_one_in_each_epoch() -> None:
    """A neighbour would come up twice as often as the others, in every epoch."""
    stand_ins = []
    for bad in (0, 9, LENGTH - 1):
        for before, after in zip(batches(set(), 100), batches({bad}, 100), strict=True):
            stand_ins += [(i - bad) % LENGTH for i in after.ids[before.ids == bad].tolist()]
    assert len(stand_ins) > 40  # of 20 epochs of 20 of 23 samples
    assert len(set(stand_ins)) > 10
    assert max(map(stand_ins.count, stand_ins)) < 10


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_is_all_bad_is_one_message(workers: int) -> None:
    with pytest.raises(ValueError, match=r"^20 samples in a row cannot be used, as file \d+ \(broken\)"):
        batches(set(range(LENGTH)), workers=workers)


@pytest.mark.parametrize(
    ("bad", "of", "max_bad", "fails"),
    [
        (10, 20, 0.01, False),
        (11, 20, 0.01, True),
        (100, 10_000, 0.01, False),
        (101, 10_000, 0.01, True),
        (3, 10, 3, False),
        (4, 10**9, 3, True),
        (1, 10**9, 0, True),
        (0, 10, 0, False),
    ],
)
def test_the_limit_is_a_share_or_a_number(bad: int, of: int, max_bad: float, fails: bool) -> None:
    names = [Skipped(f"file {i}", "broken") for i in range(bad)]
    if not fails:
        refuse_too_many(names, of, max_bad)
        return
    with pytest.raises(ValueError, match=rf"^{bad} bad samples among {of} .*file 0 \(broken\).*raise data.max_bad"):
        refuse_too_many(names, of, max_bad)


DATA = """
import torch
from workbench.errors import BadSample
from workbench.types import Items, Modality, Sample, Skipped, Split

class Pairs:
    def __init__(self, *, bad: tuple[int, ...] = (3, 7, 50), max_bad: float = 0.01):
        self.bad, self.max_bad, self.skipped = bad, max_bad, [Skipped("validation 5", "no caption")]
        self.modalities = {m: Modality("vector", (6,)) for m in "ab"}
    def __len__(self):
        return 60
    def sample(self, index, rng):
        if index in self.bad:
            raise BadSample(f"train {index}", "broken")
        point = torch.randn(6, generator=torch.Generator().manual_seed(index))
        return Sample({m: [point + 0.1 * torch.from_numpy(rng.normal(size=6)).float()] for m in "ab"}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
"""
RECIPE = """
name: small
data: {{name: '{data}:Pairs'}}
model: {{dim: 8, encoders: {{a: mlp, b: mlp}}}}
objective: clip
train: {{for: 14 steps, batch: 16}}
checkpoint: {{every: 4 steps}}
parallel: {{workers: 0}}
log: {{tensorboard: false}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "pairs.py").write_text(DATA)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(data=tmp_path / "pairs.py"))
    return tmp_path / "recipe.yaml"


class Crash(Exception):
    pass


class CrashAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, engine: Engine, logs: Logs) -> None:
        if engine.step == self.step:
            raise Crash


def facts(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in read(run / "metrics.jsonl")]


@pytest.mark.slow
def test_a_run_names_and_counts_each_once_and_a_resume_the_same(recipe: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(load_recipe(recipe), whole)
    for step in (2, 7, 10):  # 14 steps are four epochs and more; step 4 has a checkpoint
        with pytest.raises(Crash):
            train(load_recipe(recipe), broken, callbacks=[CrashAt(step)])
    train(load_recipe(recipe), broken)
    lines = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 0, "name": "validation 5", "reason": "no caption", "training": False}
    assert {line["name"] for line in lines} == {"validation 5", "train 3", "train 7", "train 50"}
    assert len(lines) == 4
    assert [r["data/skipped"] for r in facts(whole) if "data/skipped" in r][-1] == 4
    assert facts(whole) == facts(broken)
    assert (whole / "skipped.jsonl").read_text() == (broken / "skipped.jsonl").read_text()


def test_too_many_fail_the_run_which_goes_on_when_more_are_allowed(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"[23] bad samples among \d+ .*train \d+ \(broken\).*skipped.jsonl"):
        train(load_recipe(recipe, ("data.max_bad=1",)), run)
    assert train(load_recipe(recipe, ("data.max_bad=3",)), run).finished
    assert facts(run)[-1]["step"] == 14


@pytest.mark.slow
def test_two_processes_name_the_same_as_one(recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(recipe), tmp_path / "one")
    done = wb("pretrain", str(recipe), "--run", str(tmp_path / "two"), "--nproc=2", before=fork_ranks)
    assert done.returncode == 0, done.stderr
    assert "4 bad samples were skipped" in done.stderr
    one, two = ((tmp_path / n / "skipped.jsonl").read_text().splitlines() for n in ("one", "two"))
    assert sorted(one) == sorted(two)
    losses = [[r["train/loss"] for r in facts(tmp_path / n) if "train/loss" in r] for n in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_without_bad_samples_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    text = (tmp_path / "pairs.py").read_text().replace('[Skipped("validation 5", "no caption")]', "[]")
    (tmp_path / "pairs.py").write_text(text)
    train(load_recipe(recipe, ("data.bad=[]", "train.for=2 steps")), tmp_path / "run")
    assert not (tmp_path / "run" / "skipped.jsonl").exists()
    assert not any("data/skipped" in record for record in facts(tmp_path / "run"))


def test_the_share_of_bad_samples_is_that_of_the_data_set_however_long_the_training() -> None:
    """Later epochs meet the same samples again: 11 bad ones of 23 are too many after a hundred epochs, too."""
    bad = tuple(Skipped(f"file {n}", "broken") for n in range(11))
    engine: Any = SimpleNamespace(samples=100 * LENGTH, skipped=bad, parallel=Parallel(), step=1, metrics=Metrics())
    with pytest.raises(ValueError, match="11 bad samples among 23 are more"):
        BadSamples(None, cast(Data, Numbers(set()))).on_step(engine, {})
