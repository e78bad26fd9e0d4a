"""The comparison with open_clip's trainer: both train the same thing, and their numbers are read as they are meant."""

import csv
import json
import logging
from collections import Counter
from itertools import accumulate
from pathlib import Path

import forked
import open_clip
import pytest
import yaml
from click.testing import CliRunner
from open_clip_train.params import parse_args
from open_clip_train.scheduler import cosine_lr
from torch import nn, optim

from workbench.bench import loader, train, train_programs
from workbench.bench.rows import write
from workbench.bench.train import ratio, table
from workbench.bench.train_clock import Stamps
from workbench.build import build_engine, build_parts
from workbench.builders.emoji_shards import build
from workbench.distributed.processes import Parallel
from workbench.recipe.schema import parse_recipe
from workbench.training.metrics import Metrics

SETTING = train_programs.Setting("tiny", 8, "fp32", 1, 12, 4)
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    build(folder, shard=train.TARS, texts_each=1)
    return folder


@pytest.mark.slow
def test_both_train_the_same_towers_alike(tars: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(train_programs.write_recipe(SETTING, tars))
    engine = build_engine(build_parts(recipe), Parallel(), Metrics(None))
    ours = [*engine.model.parameters(), *engine.objective.parameters()]
    vision, text = (train_programs.TINY[name] for name in ("vision_cfg", "text_cfg"))
    theirs = list(open_clip.CLIP(train_programs.TINY["embed_dim"], vision, text).parameters())
    assert Counter(tuple(p.shape) or (1,) for p in theirs) == Counter(
        tuple(p.shape) for p in ours
    )  # their scale is 0-D

    arguments = parse_args(train_programs.write_arguments(SETTING, tars, tmp_path))
    group = engine.optimizer.param_groups[0]
    assert (arguments.beta1, arguments.beta2) == group["betas"]
    assert arguments.eps == group["eps"]
    assert arguments.wd == max(g["weight_decay"] for g in engine.optimizer.param_groups)
    assert arguments.grad_clip_norm == engine.clip
    assert arguments.batch_size == engine.batch
    assert arguments.workers == recipe.parallel.workers
    assert arguments.train_num_samples == (engine.steps - 1) * engine.batch  # the last one saves, and is not timed
    schedule, rate = optim.SGD(nn.Linear(1, 1).parameters(), arguments.lr), engine.schedule.peak / 100
    cosine_lr(schedule, arguments.lr, arguments.warmup, 1000)(0)
    assert schedule.param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.slow
def test_a_tar_has_one_text_a_drawing_and_there_are_enough_for_many_workers(tars: Path) -> None:
    data = build_parts(parse_recipe(train_programs.write_recipe(SETTING, tars))).data
    assert {len(data.train.cells(i, "text")) for i in range(0, len(data.train), 500)} == {1}
    assert len(list(tars.glob("train-*.tar"))) == -(-len(data.train) // 250) > 32


def test_stamps_read_the_lines_of_their_log() -> None:
    stamps = Stamps()
    for message in (
        "Start epoch 0",
        "Train Epoch: 0 [ 128/5120 (2%)] Data (t): 0.512 Batch (t): 1.250, 102.4/s, 102.4/s/gpu LR: 0.000005",
    ):
        stamps.emit(logging.LogRecord("root", logging.INFO, "", 0, message, None, None))
    (row,) = stamps.rows
    assert (row["samples"], row["waited"], row["took"]) == (128, 0.512, 1.25)
    assert row["peak_bytes"] > 2**20


def test_a_step_is_the_median_window_behind_the_first() -> None:
    clock = {5: 100.0, 10: 150.0, 15: 155.0, 20: 162.5, 22: 163.5}  # seconds a step: 10, then 1, 1.5, .5
    assert train_programs._seconds(clock) == 1.0


def test_waiting_is_a_share_of_the_same_steps_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a run takes to save its last step is no part of it."""
    steps = dict.fromkeys(range(1, 9), (9.0, 8.0)) | {9: (1, 0.5), 10: (1, 0.5), 11: (1, 0.5), 12: (5, 4.5)}

    def start(module: list[str], folder: Path) -> None:
        clock = list(accumulate((took for took, _ in steps.values()), initial=0.0))
        if module[0] == "workbench":
            records = [{"step": n, "time/step": took, "time/data": data} for n, (took, data) in steps.items()]
            records.append({"step": 13, "time/step": 900.0, "time/data": 800.0})
            looks = [{"step": n, "eval/clock/seconds": clock[n], "eval/clock/peak_bytes": 7} for n in (4, 8, 12)]
            looks.append({"step": 13, "eval/clock/seconds": 5000.0, "eval/clock/peak_bytes": 9})
            (folder / "run").mkdir()
            (folder / "run/metrics.jsonl").write_text("\n".join(map(json.dumps, records + looks)))
        else:  # a line at steps 1, 5, 8 and 12: their numbers are means
            lines = [(1, 9, 8), (5, 9, 8), (8, 9, 8), (12, 2, 1.5)]
            stamps = [
                {"samples": 8 * n, "seconds": clock[n], "waited": data, "took": took, "peak_bytes": 7}
                for n, took, data in lines
            ]
            (folder / "stamps.json").write_text(json.dumps(stamps))

    monkeypatch.setattr(train_programs, "_start", start)
    (tmp_path / "train-000000.tar").touch()
    ours = train_programs.run_ours(SETTING, tmp_path, tmp_path)
    theirs = train_programs.run_theirs(SETTING, tmp_path, tmp_path)
    assert ours == train_programs.Round(8 / 2, 6 / 8, 7)
    assert theirs == train_programs.Round(8 / 5.5, (3 * 8 + 6) / (3 * 9 + 8), 7)


def row(program: str, number: int, speed: float, mfu: float | None = None) -> train.Row:
    return train.Row("2026-11-28", "cpu", "v", "tiny", 8, "fp32", 1, program, number, speed, 0.0125, 100.0, mfu)


def test_the_ratio_is_of_rounds_that_lie_side_by_side(tmp_path: Path) -> None:
    ours = [row("wb pretrain", n, speed) for n, speed in enumerate((120.0, 60.0, 150.0))]  # the machine was busy once
    theirs = [row("open_clip_train", n, speed) for n, speed in enumerate((100.0, 40.0, 100.0))]
    alone = [row("wb pretrain, ito", 0, 30.0, 0.412)]
    rows = [*ours, *theirs, *alone]
    assert ratio(rows, "wb pretrain") == 1.5
    assert ratio(rows, "wb pretrain, ito") is None
    lines = table(rows).splitlines()
    assert lines[2] == "| tiny | 8 | fp32 | wb pretrain | 120 | 1.50 x | 1.2% | 100 |  |"
    assert lines[4] == "| tiny | 8 | fp32 | wb pretrain, ito | 30 |  | 1.2% | 100 | 41.2% |"
    write(rows, tmp_path / "new" / "b.csv")
    with (tmp_path / "new" / "b.csv").open() as file:
        assert [line["samples_per_second"] for line in csv.DictReader(file)][:2] == ["120.0", "60.0"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--steps", "14"], 2, "three looks at the clock need 15"),
        (["--model", "ViT-Z"], 1, "no model 'ViT-Z'"),
        (["--model", "tiny@x"], 1, "tiny@112"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "find_missing_peer", lambda: None)
    done = CliRunner().invoke(train.main, [*arguments, "--out", str(tmp_path / "b.csv")])
    assert done.exit_code == status
    assert said in done.output


def test_a_peer_that_cannot_run_is_said_before_anything_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "version", lambda name: "1.0.2")
    monkeypatch.setattr(train, "measure", lambda *_: pytest.fail("it trains"))
    done = CliRunner().invoke(train.main, ["--model", "tiny", "--out", str(tmp_path / "b.csv")])
    assert done.exit_code == 1
    assert "webdataset up to 0.2.86, here is 1.0.2: pip install" in done.output


@pytest.mark.slow
def test_both_programs_run_and_are_timed(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(module: list[str], folder: Path) -> None:
        done = forked.run(module[1:], module=module[0])
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(train_programs, "TINY", SMALL)
    monkeypatch.setattr(train_programs, "_start", fork)  # a test below starts one as users do
    for program in (train_programs.run_ours, train_programs.run_theirs):
        folder = tmp_path / program.__name__
        folder.mkdir()
        seen = program(SETTING, tars, folder)
        assert seen.samples_per_second > 0
        assert 0 <= seen.waited < 1
        assert seen.peak_bytes > 2**27
    assert yaml.safe_load((tmp_path / "run_ours/run/recipe.yaml").read_text())["train"]["clip"] == train_programs.CLIP
    assert not (tmp_path / "run_ours/run/tensorboard").exists()


def test_a_program_that_fails_says_how(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)status 2:\n.*no command 'pretrian'; did you mean 'pretrain'"):
        train_programs._start(["workbench", "pretrian"], tmp_path)
