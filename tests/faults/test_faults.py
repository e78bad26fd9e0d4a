"""Whatever breaks, a run ends in one clear message and goes on, bitwise the uninterrupted one, when it is put right."""

import io
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from trials import (
    Trial,
    assert_one_message,
    finish,
    goes_on,
    last_step,
    left_in_peace,
    limit_files,
    obey_permissions,
    poison,
    write_recipe,
)

from workbench.training.checkpoint_files import saved
from workbench.training.metrics import read, rewind

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), width=256)


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    return left_in_peace(recipe)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """The same run, as if it had been killed after step 30: the next save is step 35."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "DONE").unlink()
    for path in saved(run / "checkpoints"):
        if int(path.name[5:]) > 30:
            shutil.rmtree(path)
    rewind(run / "metrics.jsonl", 30)
    return run


def checkpoints(run: Path) -> list[str]:
    """Everything in the folder, drafts too."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


# --- the disk


def test_no_room_for_a_checkpoint(recipe: Path, whole: Path, run: Path) -> None:
    before = checkpoints(run)
    for background in ("false", "true"):
        status, said = finish(recipe, run, f"checkpoint.async={background}", before=limit_files)
        assert_one_message(status, said, "checkpoints/step-35: File too large (it needs 0.8 MiB,", "MiB are free there")
        assert checkpoints(run) == before
    goes_on(recipe, run, whole)


@pytest.mark.parametrize("tensorboard", ["true", "false"])
def test_no_room_for_metrics(recipe: Path, tmp_path: Path, tensorboard: str) -> None:
    run = tmp_path / "run"
    # without a best metric, as the best step 0 would be saved before
    settings = (f"log.tensorboard={tensorboard}", "checkpoint.every=50 steps", "eval.best=null")
    status, said = finish(recipe, run, *settings, before=partial(limit_files, 4096))
    assert_one_message(status, said, f"cannot write {run}", "File too large", "goes on from the last checkpoint")


def may_mount() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


ON_A_SMALL_DISK = """
mount -t tmpfs -o size={size}k none "$1" && cp -r "$2" "$1/run" || exit 77
{python} -m workbench pretrain "$3" --run "$1/run"
status=$?
rm -r "$2" && cp -r "$1/run" "$2" && exit $status
"""


@pytest.mark.skipif(not may_mount(), reason="no file system may be mounted here")
def test_a_disk_that_is_really_full(recipe: Path, whole: Path, run: Path, tmp_path: Path) -> None:
    """A file system in memory, with room for the run so far and half a checkpoint."""
    disk, before = tmp_path / "disk", checkpoints(run)
    disk.mkdir()
    pages = sum(-(-path.stat().st_size // 4096) + 1 for path in run.rglob("*"))
    script = ON_A_SMALL_DISK.format(size=4 * pages + 400, python=sys.executable)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", disk, run, recipe]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert_one_message(done.returncode, done.stderr, "step-35: No space left on device (it needs 0.8 MiB, 0.")
    assert checkpoints(run) == before
    goes_on(recipe, run, whole)


def test_a_folder_that_may_not_be_written(recipe: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        status, said = finish(recipe, tmp_path / "run", before=obey_permissions)
    finally:
        tmp_path.chmod(0o755)
    assert_one_message(status, said, f"{tmp_path / 'run'}: cannot write there: Permission denied", "--run")


def test_a_folder_that_may_not_be_written_any_more(recipe: Path, whole: Path, run: Path) -> None:
    folder = run / "checkpoints"
    folder.chmod(0o555)
    try:
        status, said = finish(recipe, run, before=obey_permissions)
    finally:
        folder.chmod(0o755)
    assert_one_message(status, said, "cannot write the checkpoint", "step-35: Permission denied")
    goes_on(recipe, run, whole)


# --- checkpoints


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "file"), [(truncate, "model"), (flip_a_bit, "optimizer")])
def test_a_damaged_checkpoint(recipe: Path, whole: Path, run: Path, damage: Callable[[Path], None], file: str) -> None:
    *_, before, newest = sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    damage(run / "checkpoints" / f"step-{newest}" / f"{file}.safetensors")
    words = (f"step-{newest}: {file}.safetensors", f"step-{before} (step {before}")
    goes_on(recipe, run, whole, "damaged checkpoint left alone", *words)


def test_no_whole_checkpoint_left(recipe: Path, run: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    for path in (run / "checkpoints").glob("*/model.safetensors"):
        flip_a_bit(path)
    status, said = finish(recipe, run)
    assert_one_message(status, said, "has no whole checkpoint left; --fresh")
    assert (run / "metrics.jsonl").read_bytes() == before


# --- the data


def test_a_sample_that_is_no_number(recipe: Path, run: Path) -> None:
    """It never reaches the weights: another one stands in for it, and it is named."""
    status, said = finish(recipe, run, before=poison)
    assert status == 0, said
    assert "1 bad sample was skipped" in said
    assert "77" in (run / "skipped.jsonl").read_text()
    assert all(math.isfinite(record["train/loss"]) for record in read(run / "metrics.jsonl") if "train/loss" in record)


def test_a_killed_data_worker(recipe: Path, run: Path) -> None:
    trial = Trial(recipe, run, *FOR_EVER)
    trial.wait_until(lambda: trial.step > 33)
    process = trial.process.pid
    (worker,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    assert_one_message(*trial.wait(), "a data worker died", "lower parallel.workers (1)")


PICTURES = """
name: pictures
data: {{name: shards, path: '{tars}/*.tar'}}
model:
  dim: 8
  encoders:
    image:
      name: open_clip
      augment: none
      config: {{image_size: 16, layers: 1, width: 16, head_width: 8, patch_size: 8}}
    text: {{name: open_clip, config: {{context_length: 8, width: 16, heads: 2, layers: 1}}}}
objective: clip
train: {{for: 25 steps, batch: 4}}
checkpoint: {{every: 3 steps}}
parallel: {{workers: 1}}
log: {{tensorboard: false}}
"""


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for n in range(6):
                picture = io.BytesIO()
                Image.new("RGB", (16, 16), (40 * n, 90 * shard, 7)).save(picture, "PNG")
                for suffix, content in (("png", picture.getvalue()), ("txt", f"number {6 * shard + n}".encode())):
                    member = tarfile.TarInfo(f"{n}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (tmp_path / "recipe.yaml").write_text(PICTURES.format(tars=tmp_path))
    return tmp_path


def test_a_shard_that_is_lost_while_training(tars: Path) -> None:
    """First it vanishes, then it is cut off; each time it is put back."""
    recipe, run, shard = tars / "recipe.yaml", tars / "run", tars / "1.tar"
    assert finish(recipe, tars / "whole")[0] == 0
    content = shard.read_bytes()
    for step, break_it in ((5, shard.unlink), (15, lambda: shard.write_bytes(content[:2000]))):
        trial = Trial(recipe, run)
        trial.wait_until(lambda step=step, trial=trial: trial.step >= step)
        break_it()
        words = ("of the training data cannot be read", str(shard), "is sound")
        assert_one_message(*trial.wait(), *words)
        shard.write_bytes(content)
    goes_on(recipe, run, tars / "whole")


# --- signals


FOR_EVER = ("train.for=100000 steps", "parallel.workers=1", "checkpoint.async=true")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop(recipe: Path, run: Path, number: int) -> None:
    """As a terminal and a scheduler do it: data workers get the signal, too."""
    trial = Trial(recipe, run, *FOR_EVER)
    trial.wait_until(lambda: trial.step > 33)
    assert trial.process.pid
    os.killpg(trial.process.pid, number)
    status, said = trial.wait()
    assert status == 0, said
    assert "the same command goes on from there" in said
    assert (run / "checkpoints" / f"step-{last_step(run)}" / "manifest.json").exists()
    assert not (run / "DONE").exists()
