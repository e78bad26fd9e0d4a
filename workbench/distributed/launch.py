"""`--nproc N`: N processes of one command on this machine, started as torchrun starts them; the first to fail speaks.

A rank writes why it failed to a file (`report_to_launcher`) and leaves the terminal to the launcher, which says one
thing: what went wrong first, and on which rank. The trap: when a rank dies, the others fail within milliseconds too,
and often report it before the launcher notices the death. Their reports are RankLost, which counts only where no rank
has a reason of its own.

Unlike torchrun, the launcher gives ranks that are asked to stop the time to finish a step and save, and then exits with
status 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

FILE = "WB_ERROR_FILE"
GRACE = 5.0
"""seconds after the first failure in which the other ranks may report theirs; a rank that waits would wait for ever"""
PATIENCE = 600.0
"""the same for a rank that is writing a checkpoint, which must not be cut off"""
KILLED = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""signals that come from outside or from a defect, never from a rank that gives up"""


@dataclass
class Rank:
    """A process, and the file in which it says why it failed."""

    number: int
    process: subprocess.Popen[bytes]
    file: Path
    abandoned: str = ""
    """how it was found when it was killed for saying nothing"""
    ended: float = 0.0
    """when its end was noticed"""

    @property
    def words(self) -> dict[str, Any] | None:
        """Read what it left: message, error, status and time; None when it has not failed, or could not say so."""
        return json.loads(self.file.read_text()) if self.file.exists() else None

    @property
    def is_saving(self) -> bool:
        """Whether it is inside a block of `saving`."""
        return _mark(self.file).exists()

    @property
    def failed(self) -> bool:
        return self.process.poll() not in (None, 0) or self.file.exists()


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `wb ARGUMENTS` in `count` processes until all have ended; returns the exit status of the whole."""
    with tempfile.TemporaryDirectory(prefix="wb-") as folder, _reserved_port() as port:
        ranks: list[Rank] = []
        with _passed_on(ranks) as signals:
            for number in range(count):
                file = Path(folder) / f"{number}.json"
                environment = os.environ | _environment(number, count, port) | {FILE: str(file)}
                ranks.append(Rank(number, _start(arguments, environment), file))
                if signals:  # one that came before this rank was started has not reached it
                    ranks[-1].process.send_signal(signals[-1])
            _wait(ranks, signals)
        return _conclude(ranks, bool(signals))


def report_to_launcher(error: BaseException, message: str, status: int) -> bool:
    """Report why this process fails to the launcher that started it; returns whether there is one that will say it."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun repeats it in its report, but does not say it in its place
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    if FILE not in os.environ:
        return False
    facts = {"message": message, "error": type(error).__name__, "status": status, "time": time.time()}
    file = Path(os.environ[FILE])
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(facts))
    os.replace(draft, file)  # the launcher looks at any time, and must not read half of it
    return True


@contextmanager
def saving() -> Iterator[None]:
    """Keep the launcher from killing this process for the failure of another while it writes what must not be lost."""
    if FILE not in os.environ:
        yield
        return
    mark = _mark(Path(os.environ[FILE]))
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _mark(file: Path) -> Path:
    return file.with_suffix(".saving")


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Make the variables that torchrun sets, as far as anybody reads them."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {name: str(n) for name, n in places.items()} | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": threads}


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Reserve a port that the first rank can listen on: bound here, so that nobody else is given it, but not listening.

    SO_REUSEADDR lets the rank bind it, too. Asking for a free port and closing it would leave it to others meanwhile.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        yield held.getsockname()[1]


def _start(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a rank in a session of its own, so that Ctrl-C of a terminal reaches it once, through the launcher."""
    command = [sys.executable, "-m", "workbench", *arguments]
    return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_stop_with_parent)


def _stop_with_parent() -> None:
    """Ask Linux to send SIGTERM when the launcher is killed, so that the rank saves and ends; other systems cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def _passed_on(ranks: list[Rank]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to every rank; yields the list of those that came so far."""
    came: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        came.append(number)
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                rank.process.send_signal(number)

    before = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: list[Rank], signals: list[int]) -> None:
    """Wait until all ranks have ended.

    After the first failure, or a second SIGINT, ranks that are left after GRACE are killed; after a failure a rank in
    the middle of a save has PATIENCE. A rank that does not die of that within another GRACE, because it waits for a
    disk, is left behind.
    """
    deadline = latest = float("inf")
    while left := [rank for rank in ranks if rank.process.poll() is None]:
        _note_ends(ranks)
        at_once = signals.count(signal.SIGINT) > 1
        # the others get time to report what they saw: the first failure seen here need not be the first there was
        if deadline == float("inf") and (any(r.failed for r in ranks) or at_once):
            deadline, latest = time.monotonic() + GRACE, time.monotonic() + PATIENCE
        is_saving = any(rank.is_saving for rank in left) and not at_once
        if time.monotonic() > (latest if is_saving else deadline):
            if all(rank.abandoned for rank in left):
                break
            for rank in left:
                rank.abandoned = _state(rank.process.pid)
                rank.process.kill()
            deadline = latest = time.monotonic() + GRACE
        # polled, not waited for: any rank may end first, and signals have to be answered meanwhile
        time.sleep(0.02)
    _note_ends(ranks)


def _note_ends(ranks: list[Rank]) -> None:
    """Note when ranks are first seen to have ended: a report that is older has seen the failure before its death."""
    for rank in ranks:
        if not rank.ended and rank.process.poll() is not None:
            rank.ended = time.time()


def _state(pid: int) -> str:
    """Say in a word what a process does, as far as the system knows."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        letter = ""
    return {"T": "stopped", "t": "held by a debugger", "D": "waiting for a disk"}.get(letter, "alive")


def _conclude(ranks: list[Rank], asked: bool) -> int:
    """Say what went wrong first; returns the exit status.

    A rank that was killed from outside, or crashed, is the reason when no other reported an error of its own before it
    was gone. Else the first error of a rank's own is, then a rank that waited in vain, then a stop that people asked
    for, and last that another process is gone.
    """
    if all(rank.process.returncode == 0 for rank in ranks):
        return 0
    spoke = sorted(((r, w) for r in ranks if (w := r.words)), key=lambda pair: pair[1]["time"])
    own = [(r, w) for r, w in spoke if w["error"] not in ("RankLate", "RankLost")]
    dead = [r for r in ranks if (r.process.returncode or 0) < 0 and not r.abandoned and not r.words]
    killed = [r for r in dead if -r.process.returncode in KILLED and not (own and own[0][1]["time"] < r.ended)]
    late = [(r, w) for r, w in spoke if w["error"] == "RankLate"]
    status = 1
    if killed or (dead and not spoke and not asked):
        said = _place(killed or dead, ranks) + _epitaph((killed or dead)[0])
    elif own:
        (rank, words), status = own[0], own[0][1]["status"]
        said = words["message"] if status == 2 else f"{_place([rank], ranks)}: {words['message']}"
    elif late:
        silent = [r for r in ranks if r.abandoned and not r.words]
        whom = "".join(f"; rank {r.number} did not answer, and was {r.abandoned}" for r in silent)
        said = f"{_place([late[0][0]], ranks)}: {late[0][1]['message']}{whom}"
    elif asked:
        said = "stopped at once: the same command goes on from the last checkpoint, if there is one"
    elif spoke:
        said = f"{_place([spoke[0][0]], ranks)}: {spoke[0][1]['message']}"
    else:  # the rank itself has said why on the terminal, as click does with wrong options
        return max(1, *(rank.process.returncode or 0 for rank in ranks))
    click.echo(f"error: {said}", err=True)
    return status


def _place(chosen: list[Rank], ranks: list[Rank]) -> str:
    return f"rank {' and '.join(str(r.number) for r in chosen)} of {len(ranks)}"


def _epitaph(rank: Rank) -> str:
    name = signal.Signals(-rank.process.returncode).name
    why = {"SIGKILL": " (for lack of memory, or by hand)"}.get(name, "")
    return f" was ended by {name}{why}. If there is a checkpoint, it is sound, and the same command goes on from there"
