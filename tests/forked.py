"""Commands for tests, forked from a server that has torch: one that starts from nothing imports for four seconds.

Where the start itself is the point, and in what is measured, a test takes `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

import workbench.distributed.launch as launch
from workbench.studies import side_by_side

server = multiprocessing.get_context("forkserver")
# DistributedDataParallel imports torch's compiler, and so would every rank: another two seconds
heavy = ["torch._dynamo", "torch.distributed.fsdp"]
ours = ["cli.pretrain", "runs.train", "runs.report", "callbacks.console", "encoders.open_clip", "encoders.mlp"]
server.set_forkserver_preload([*heavy, *(f"workbench.{module}" for module in ours)])


def start(
    arguments: Sequence[str],
    stdout: Path,
    stderr: Path,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
    module: str = "workbench",
) -> ForkServerProcess:
    """Start `python -m MODULE ARGUMENTS`, or a script, in a process and a session of its own; `before` is called in it
    first.
    """
    multiprocessing.forkserver.ensure_running()
    address = multiprocessing.forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    work = (module, list(arguments), stdout, stderr, before, environment or {}, address)
    process = server.Process(target=_run, args=work)
    process.start()
    return process


def _run(
    module: str,
    arguments: list[str],
    stdout: Path,
    stderr: Path,
    before: Callable[[], None] | None,
    environment: Mapping[str, str],
    address: str,
) -> None:
    os.setsid()
    # Python would start another server for what this process forks, which would import torch anew
    known = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    known._forkserver_address, known.ensure_running = address, lambda: None
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process that was not forked
    os.environ |= environment
    if before:
        before()
    call(module, arguments)


def call(module: str, arguments: Sequence[str]) -> None:
    import torch

    torch.set_num_threads(1)
    sys.argv = [module, *arguments]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def run(
    arguments: Sequence[str], before: Callable[[], None] | None = None, module: str = "workbench", **environment: str
) -> CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` to its end, for two minutes at the most."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(arguments, *said, before, environment, module)
        process.join(120)
        assert process.exitcode is not None, "still running after two minutes"
        out, err = (file.read_text(errors="surrogateescape") for file in said)
        return CompletedProcess(arguments, process.exitcode, out, err)


def wb(*arguments: str, before: Callable[[], None] | None = None, **environment: str) -> CompletedProcess[str]:
    """Run `wb ARGUMENTS` to its end."""
    return run(arguments, before, **environment)


def fork_ranks() -> None:
    """Called before a command with --nproc."""
    launch._start = Rank  # type: ignore[assignment]


class Rank:
    """A rank that is forked from its launcher, which has torch, in the place of a new interpreter."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(arguments, environment))
        self.process.start()
        self.pid = self.process.pid
        self.wait, self.kill = self.process.join, self.process.kill

    def _run(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        os.setsid()
        launch._stop_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.environ |= environment
        call("workbench", arguments)

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)


def fork_workers() -> None:
    """Called before a command that trains runs side by side, each in a process."""
    side_by_side._Worker._start = start_worker  # type: ignore[method-assign, assignment]


def start_worker(worker: side_by_side._Worker) -> Worker:
    """Stand in for `_Worker._start`."""
    return Worker(worker._threads)


class Worker:
    """A process of `workbench.studies.worker` in the place of a Popen with two pipes."""

    def __init__(self, threads: int) -> None:
        (orders, to), (back, news) = (multiprocessing.Pipe(duplex=False) for _ in range(2))
        self.process = server.Process(target=self._run, args=(threads, orders, news, dict(os.environ)))
        self.process.start()
        for end in (orders, news):
            end.close()
        self.stdin, self.stdout = (os.fdopen(os.dup(end.fileno()), mode) for end, mode in ((to, "w"), (back, "r")))
        self.terminate, self.kill = self.process.terminate, self.process.kill

    @staticmethod
    def _run(threads: int, orders: Connection, news: Connection, environment: dict[str, str]) -> None:
        os.setsid()
        os.environ |= environment
        for number, end in enumerate((orders, news)):
            os.dup2(end.fileno(), number)
            end.close()
        multiprocessing.set_start_method("fork", force=True)  # of data workers
        call("workbench.studies.worker", [str(threads)])

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode
