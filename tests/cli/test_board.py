"""`wb board`: a real TensorBoard on a real event file, ended by Ctrl-C without a word."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from tiny_sweeps import write_sweep
from torch.utils.tensorboard.writer import SummaryWriter

from workbench.cli import cli
from workbench.cli.board import find_events, link_runs


def fetch(url: str) -> bytes:
    with urlopen(url, timeout=30) as answer:
        return answer.read()


def _hear_interrupts() -> None:
    """A job in the background of a script is started with SIGINT ignored, and so would be what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_serves_the_runs_until_interrupted(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "run" / "tensorboard")) as writer:
        writer.add_scalar("train/loss", 2.5, 3)
    command = [sys.executable, "-m", "workbench", "board", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_interrupts
    ) as board:
        try:
            assert board.stdout
            address = re.search(r"http://\S+/", board.stdout.readline())
            assert address, board.stderr.read() if board.stderr else ""
            assert b"TensorBoard" in fetch(address[0])
            deadline = time.monotonic() + 30
            while not (tags := json.loads(fetch(address[0] + "data/plugin/scalars/tags"))):
                assert time.monotonic() < deadline, "the run was never loaded"
                time.sleep(0.2)
            assert list(tags) == ["run"]
            assert list(tags["run"]) == ["train/loss"]
            board.send_signal(signal.SIGINT)
            out, err = board.communicate(timeout=30)
        finally:
            board.kill()
    assert board.returncode == 0
    assert (out.strip(), err.strip()) == ("", "")


@pytest.mark.parametrize("where", ["empty", "missing"])
def test_nothing_to_show_is_said(tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(cli, ["board", str(tmp_path / where)])
    assert result.exit_code == 1
    assert "train something" in result.stderr
    assert where in result.stderr


def write_events(folder: Path, name: str = "events.out.tfevents.1.x") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(str(folder))
    return folder


def test_runs_have_their_own_names(tmp_path: Path) -> None:
    sweep = tmp_path / "runs" / "study"
    for name in ("clip-seed0", "ito-seed0"):
        write_events(sweep / name / "tensorboard")
        write_events(sweep / name / "checkpoints" / "step-4")  # nobody looks there
        (sweep / name / "recipe.yaml").touch()
    write_events(tmp_path / "runs" / "wandb")  # of another program
    write_events(sweep / "clip-seed0" / "inner" / "tensorboard")  # a run inside of a run's folder
    (sweep / "above").symlink_to(tmp_path / "runs")
    inner = ["clip-seed0", "clip-seed0/inner", "ito-seed0"]
    assert sorted(name for name, _ in find_events(sweep)) == ["above/wandb", *inner]
    assert sorted(name for name, _ in find_events(tmp_path / "runs")) == [*(f"study/{name}" for name in inner), "wandb"]
    for alone in (sweep / "ito-seed0", sweep / "ito-seed0" / "tensorboard"):
        assert [name for name, _ in find_events(alone)] == ["ito-seed0"]


def test_later_runs_and_files_are_added(tmp_path: Path) -> None:
    runs, shown = tmp_path / "runs", tmp_path / "shown"
    first = write_events(runs / "a-seed0" / "tensorboard")
    write_events(runs / "a-seed0" / "inner" / "tensorboard")
    link_runs(runs, shown)
    write_events(first, "events.out.tfevents.2.x")  # of a resumed run
    (write_events(runs / "b-seed0" / "tensorboard") / "projector_config.pbtxt").touch()
    link_runs(runs, shown)
    found = {str(path.relative_to(shown)) for path in shown.rglob("*") if path.is_file()}
    assert found == {
        "a-seed0/events.out.tfevents.1.x",
        "a-seed0/events.out.tfevents.2.x",
        "a-seed0/inner/events.out.tfevents.1.x",
        "b-seed0/events.out.tfevents.1.x",
        "b-seed0/projector_config.pbtxt",
    }
    assert (shown / "a-seed0" / "events.out.tfevents.1.x").read_text() == str(first)


def test_a_sweep_file_means_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["board", str(write_sweep(tmp_path))])
    assert result.exit_code == 1
    assert "runs/it is not a folder: train something" in result.stderr
