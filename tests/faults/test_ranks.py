"""One of several processes dies, fails, hangs or is asked to stop: the job ends at once, and one message says why."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forked
import pytest
from trials import Trial, assert_one_message, goes_on, last_step, left_in_peace, limit_files, write_recipe

from workbench.distributed import launch
from workbench.engine import Engine, Logs
from workbench.training import checkpoint, checkpoint_files
from workbench.types import Batch

pytestmark = pytest.mark.slow
FOR_EVER = "train.for=100000 steps"


def fork_ranks(then: Callable[[], None] | None = None) -> None:
    """Called in the launcher."""
    forked.fork_ranks()
    if then:
        then()


class Job(Trial):
    """A trial in two processes."""

    options = ("--nproc", "2")

    def __init__(self, recipe: Path, run: Path, *settings: str, then: Callable[[], None] | None = None) -> None:
        super().__init__(recipe, run, *settings, before=partial(fork_ranks, then))

    @property
    def ranks(self) -> list[int]:
        launcher = self.process.pid
        return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]

    def ends_after(self, fault: Callable[[], None]) -> None:
        """Soon, as parallel.timeout is half an hour, and with all its ranks."""
        ranks = self.ranks
        fault()
        self.process.join(60)
        assert self.process.exitcode is not None
        assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def fail_after(step: int, rank: int, what: str) -> None:
    """Called in the launcher before it starts ranks: this one of them fails after that step."""
    train_step = Engine.train_step

    def fail(engine: Engine, batch: Batch) -> Logs:
        if engine.step == step and engine.parallel.rank == rank:
            exec(what)
        return train_step(engine, batch)

    Engine.train_step = fail  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), width=64, steps=40)


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    return left_in_peace(recipe, Job)


def test_a_killed_rank_and_a_stopped_one(recipe: Path, whole: Path, tmp_path: Path) -> None:
    """The first is noticed at once, the second after parallel.timeout; the same command goes on each time."""
    run = tmp_path / "run"
    for victim in (0, 1):
        job = Job(recipe, run, FOR_EVER)
        begin = last_step(run)
        job.wait_until(lambda job=job, begin=begin: job.step > begin + 5)
        job.ends_after(lambda job=job, victim=victim: os.kill(job.ranks[victim], signal.SIGKILL))
        assert_one_message(*job.wait(), f"rank {victim} of 2 was ended by SIGKILL", "goes on from there")
    job = Job(recipe, run, FOR_EVER, "parallel.timeout=8 seconds")
    begin = last_step(run)
    job.wait_until(lambda: job.step > begin + 5)
    job.ends_after(lambda: os.kill(job.ranks[1], signal.SIGSTOP))
    words = ("in vain for other processes", "rank 1 did not answer, and was stopped", "raise it", "goes on from")
    assert_one_message(*job.wait(), *words)


@pytest.mark.parametrize(
    ("rank", "what", "message"),
    [
        (1, "raise MemoryError", "rank 1 of 2: out of memory: lower train.microbatch"),
        (0, "raise ValueError('sample 7 cannot be read')", "rank 0 of 2: sample 7 cannot be read"),
        (1, "import ctypes; ctypes.string_at(0)", "rank 1 of 2 was ended by SIGSEGV"),
    ],
)
def test_an_error_of_one_rank(recipe: Path, whole: Path, tmp_path: Path, rank: int, what: str, message: str) -> None:
    run = tmp_path / "run"
    status, said = Job(recipe, run, then=partial(fail_after, 24, rank, what)).wait()
    assert_one_message(status, said, message)
    goes_on(recipe, run, whole, kind=Job)


def save_slowly() -> None:
    """Called in the launcher before it starts ranks, of which it is impatient."""
    launch.GRACE, finish = 0.2, checkpoint.finish

    def finish_slowly(*arguments: Any) -> None:
        time.sleep(2)
        finish(*arguments)

    checkpoint.finish = finish_slowly


def test_a_checkpoint_that_is_being_written_outlives_the_failure_of_another_rank(recipe: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    job = Job(recipe, tmp_path / "run", then=save_slowly)
    job.wait_until(lambda: (checkpoints / ".draft-step-7").exists())
    job.ends_after(lambda: os.kill(job.ranks[1], signal.SIGKILL))
    assert_one_message(*job.wait(), "rank 1 of 2 was ended by SIGKILL")
    checkpoint_files.verify(checkpoints / "step-7")


def test_no_room_for_a_checkpoint_on_the_first_rank(recipe: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = Job(recipe, run, then=partial(limit_files, 20_000))
    assert_one_message(*job.wait(), "rank 0 of 2: cannot write the checkpoint", "step-0: File too large")
    assert not list((run / "checkpoints").iterdir())


def test_a_wrong_recipe_is_said_once(recipe: Path, tmp_path: Path) -> None:
    status, said = Job(recipe, tmp_path / "run", "train.lrr=1").wait()
    assert status == 2
    assert said.count("unknown key 'lrr'; did you mean 'lr'?") == 1
    assert "rank" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_of_the_launcher(recipe: Path, whole: Path, tmp_path: Path, number: int) -> None:
    """To the launcher alone, as `kill` does it, or to its group, as a terminal does."""
    run = tmp_path / "run"
    job = Job(recipe, run)
    job.wait_until(lambda: job.step > 4)
    assert job.process.pid
    (os.killpg if number == signal.SIGINT else os.kill)(job.process.pid, number)
    status, said = job.wait()
    assert status == 0, said
    assert said.count("finishing this step") == 1
    assert f"stopped at step {last_step(run)}" in said
    assert (run / "checkpoints" / f"step-{last_step(run)}" / "manifest.json").exists()
    goes_on(recipe, run, whole, kind=Job)


def test_ranks_whose_launcher_was_killed_save_and_end(recipe: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = Job(recipe, run, FOR_EVER)
    job.wait_until(lambda: job.step > 4)
    ranks = job.ranks
    job.kill()
    deadline = time.monotonic() + 30
    while there := [pid for pid in ranks if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, there
        time.sleep(0.05)
    assert (run / "checkpoints" / f"step-{last_step(run)}" / "manifest.json").exists()
