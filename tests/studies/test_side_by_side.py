"""Runs side by side, by workers that only talk: who fails alone, who waits, what each gets, how all are stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from workbench.studies import machine, side_by_side
from workbench.studies.side_by_side import Failed, Job, Outcome, Progress, Trained, train_all

WORKER = """
import json, os, signal, sys, threading, time
def say(**news):
    sys.stdout.write(json.dumps(news) + "\\n")
    sys.stdout.flush()
stopped = threading.Event()
for line in iter(sys.stdin.readline, ""):
    order = json.loads(line)
    what = order["recipe"]["do"]
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "held" and not os.path.exists(order["folder"]):
        say(failed="RunHeld", said="held")
    elif what == "fail":
        say(failed="ArithmeticError", said="the loss went astray")
    else:
        say(step=2, steps=4)
        if what == "free":
            open(order["folder"], "w").close()
        while what == "last" and not stopped.wait(0.01):
            pass
        if stopped.is_set():
            say(failed="Stopped", said="stopped at step 2 of 4")
        else:
            say(step=4, steps=4)
            say(facts={"threads": float(os.environ["OMP_NUM_THREADS"]), "pid": float(os.getpid()),
                       "gpu": float(os.environ.get("CUDA_VISIBLE_DEVICES", "-1"))}, total_weight=1.0, seconds=0.0)
"""


class Words:
    """Stands for a recipe."""

    def __init__(self, do: str) -> None:
        self.do = do

    def as_dict(self) -> dict[str, str]:
        return {"do": self.do}


@pytest.fixture(autouse=True)
def _talkers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start workers that take no time: the program above."""
    script, popen = tmp_path / "worker.py", subprocess.Popen
    script.write_text(WORKER)

    def start(command: Sequence[str], **options: object) -> subprocess.Popen[str]:
        assert command[-2:-1] == ["workbench.studies.worker"]
        return popen([sys.executable, "-I", "-S", str(script)], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(side_by_side.subprocess, "Popen", start)
    monkeypatch.setattr(side_by_side, "RETRY", 0.05)


def jobs_of(*words: str, folder: Path | None = None) -> list[Job]:
    return [Job(Words(word), folder) for word in words]  # type: ignore[arg-type]


def outcomes(jobs: list[Job], at_once: int, **options: bool | int) -> dict[int, Outcome]:
    with closing(train_all(jobs, at_once, **options)) as found:  # type: ignore[arg-type]
        return dict(found)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3])
def test_what_fails_or_dies_leaves_the_others_alone(at_once: int) -> None:
    found = outcomes(jobs_of("work", "die", "fail", "work", "die", "work"), at_once)
    assert [isinstance(found[i], Trained) for i in range(6)] == [True, False, False, True, False, True]
    assert found[1] == found[4] == Failed("ChildProcessError", "its process was killed, perhaps for want of memory")
    assert found[2] == Failed("ArithmeticError", "the loss went astray")


def test_a_process_trains_one_run_after_the_other_with_its_threads() -> None:
    found = [outcome.facts for outcome in outcomes(jobs_of(*["work"] * 6), 2, threads=3).values()]  # type: ignore[union-attr]
    assert {facts["threads"] for facts in found} == {3}
    assert len({facts["pid"] for facts in found}) <= 2


def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    found = outcomes(jobs_of(*["work"] * 8), 4)
    assert {outcome.facts["gpu"] for outcome in found.values()} <= {4, 7}  # type: ignore[union-attr]


def test_a_run_that_another_process_trains_is_waited_for_behind_all_others(tmp_path: Path) -> None:
    flag = tmp_path / "freed"
    found = outcomes(jobs_of("held", "work", "free", folder=flag), 1, wait=True)
    assert list(found) == [1, 2, 0]
    assert isinstance(found[0], Trained)
    flag.unlink()
    assert outcomes(jobs_of("held", folder=flag), 1)[0] == Failed("RunHeld", "held")


def test_all_are_asked_to_stop_once_and_none_begins() -> None:
    progress: Sequence[Progress] = []

    def see(found: Sequence[Progress]) -> None:
        nonlocal progress
        progress = found
        if all(run.step == 2 for run in found[:2]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), closing(train_all(jobs_of("last", "last", "work"), 2, see)) as found:
        list(found)
    assert [run.state for run in progress] == ["ended", "ended", "waiting"]
    assert not [t for t in threading.enumerate() if t.name.startswith("Thread") and "_lead" in t.name]


def test_the_share_of_a_run_is_that_of_its_steps() -> None:
    shares = [Progress(step=3, steps=4).share, Progress(step=3).share, Progress("ended", 1, 4).share]
    assert shares == [0.75, 0.0, 1.0]


def test_threads_are_shared_out_unless_the_user_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "count_cores", lambda: 7)
    assert [machine.share_threads(at_once) for at_once in (1, 2, 3, 8)] == [7, 3, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert machine.share_threads(3) == 5


def test_what_the_machine_has_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = machine.free_memory()
    assert free is None or 0 <= free < 2**50
    for name, text in (("limit", "4096"), ("used", "3000"), ("memory.stat", "anon 5\ninactive_file 500\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUPS", ((tmp_path, "limit", "used"), (tmp_path, "max", "none")))
    assert machine.free_memory() in (1596, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.list_gpus() == []


def test_a_worker_ends_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    command = [sys.executable, "-c", "import workbench.studies.worker as w; w._listen(0, None)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
