"""Processes for tests, forked from a server that has torch: one that starts from nothing imports for four seconds.

`wb` runs a command and returns what it said; `ranks_are_forked` is for a launcher whose ranks are to be forked, too.
Where the start itself is the point, a test takes `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

import workbench.distributed.launch as launch

server = multiprocessing.get_context("forkserver")
preloaded = ["cli.pretrain", "runs.train", "runs.report", "callbacks.console", "encoders.open_clip", "objectives.clip"]
server.set_forkserver_preload(["torch._dynamo", *(f"workbench.{module}" for module in preloaded)])


class Command:
    """`wb ARGUMENTS`, in a process and a session of its own, whose output goes to files.

    `before` is called in it first.
    """

    def __init__(
        self, arguments: Sequence[str], stdout: Path, stderr: Path, before: Callable[[], None] | None = None
    ) -> None:
        work = (list(arguments), stdout, stderr, before)
        self.process: ForkServerProcess = server.Process(target=_command, args=work)
        self.process.start()

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        self.process.join(120)
        assert self.process.exitcode is not None, "still running after two minutes"
        return self.process.exitcode


def _command(arguments: list[str], stdout: Path, stderr: Path, before: Callable[[], None] | None) -> None:
    os.setsid()
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process that was not forked
    if before:
        before()
    _main(arguments)


def _main(arguments: Sequence[str]) -> None:
    import torch

    from workbench.cli import main

    torch.set_num_threads(1)
    sys.argv = ["wb", *arguments]
    main()


def wb(*arguments: str, before: Callable[[], None] | None = None) -> CompletedProcess[str]:
    """Run `wb ARGUMENTS` to its end."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "stdout"), Path(folder, "stderr")
        status = Command(arguments, *said, before=before).wait()
        return CompletedProcess(arguments, status, *(file.read_text(errors="surrogateescape") for file in said))


def ranks_are_forked() -> None:
    """Called in a launcher, before it starts them."""
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
        _main(arguments)

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)
