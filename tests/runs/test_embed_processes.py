"""`wb embed` and other processes: two that write one file, and one that is killed as by a power cut."""

import fcntl
import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from several import spawn
from torch.multiprocessing import ProcessExitedException

from workbench.cli import cli

pytestmark = pytest.mark.slow
IMAGE = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
WITH = f"{{name: open_clip, config: {json.dumps(IMAGE)}}}"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()
    rows = []
    for n in range(30):
        Image.new("RGB", (16, 16), (8 * n, 20, 200)).save(tmp_path / "birds" / f"{n}.png")
        rows.append({"file_name": f"{n}.png", "text": f"bird {n}"})
    (tmp_path / "birds" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def words(out: str) -> list[str]:
    return ["embed", "birds", "--with", WITH, "--field", "image", "--batch", "4", "--out", out, "--json"]


def command(rank: int, folder: str, out: str) -> None:
    os.chdir(folder)
    done = CliRunner().invoke(cli, words(out))
    Path("said.txt").write_text(f"{done.exit_code} {done.stderr}")


def killed(rank: int, folder: str, out: str) -> None:
    """Die without a word in the middle of the third chunk, whose bytes are on their way to the disk."""
    from workbench.runs import embed, embedding_file

    embed.CHUNK = 4
    replace, count = os.replace, []

    def die(a: Any, b: Any) -> None:
        count.append(b)
        if len([each for each in count if str(each).endswith(".parquet")]) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(a, b)

    embedding_file.os.replace = die  # type: ignore[assignment]
    os.chdir(folder)
    CliRunner().invoke(cli, words(out))


def test_a_second_process_is_told_that_the_file_is_being_written(pictures: Path) -> None:
    (pictures / "a.parquet.parts").mkdir()
    with (pictures / "a.parquet.parts" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        spawn(1, command, str(pictures), "a.parquet")
        said = (pictures / "said.txt").read_text()
        assert said.startswith("1 ")
        assert "a.parquet is being written by another process: wait for it, or choose another --out" in said
        assert [file.name for file in (pictures / "a.parquet.parts").iterdir()] == [".lock"]
        assert not Path("a.parquet").exists()


@pytest.mark.parametrize("name", ["a.parquet", "a.npz"])
def test_what_was_killed_goes_on_to_the_same_bytes(pictures: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.runs.embed.CHUNK", 4)
    with pytest.raises(ProcessExitedException) as caught:
        spawn(1, killed, str(pictures), name)
    assert caught.value.signal_name == "SIGKILL"
    assert not Path(name).exists()
    assert len(list(Path(f"{name}.parts").glob("[0-9]*.parquet"))) == 2
    went_on, anew = (CliRunner().invoke(cli, words(out)) for out in (name, f"whole-{name}"))
    assert went_on.exit_code == anew.exit_code == 0, went_on.stderr
    assert json.loads(went_on.stdout)["resumed"] == 8
    assert json.loads(anew.stdout)["resumed"] == 0
    if name.endswith(".parquet"):
        assert Path(name).read_bytes() == Path(f"whole-{name}").read_bytes()
        assert pq.read_metadata(name).num_rows == 30
    else:  # a zip file holds the time at which each array was written
        assert unzipped(name) == unzipped(f"whole-{name}")


def unzipped(name: str) -> dict[str, bytes]:
    from zipfile import ZipFile

    with ZipFile(name) as file:
        return {each: file.read(each) for each in file.namelist()}
