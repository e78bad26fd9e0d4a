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
from torch.utils.tensorboard.writer import SummaryWriter

from workbench.cli import cli


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
            assert list(tags) == ["run/tensorboard"]
            assert list(tags["run/tensorboard"]) == ["train/loss"]
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
