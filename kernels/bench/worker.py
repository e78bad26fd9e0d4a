"""A process in which something is measured, and how to talk to it: a line of JSON each way.

One process per provider means that a package which crashes, corrupts the device or never comes back costs its own row
and no other.

Trap: packages print. Their output goes to stderr, so that stdout holds answers alone.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Failed(Exception):
    """Says in one line why there is no measurement."""


Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""what travels between processes"""


class Remote(Protocol):
    """Measures on request: a process, or in tests the runner itself."""

    def call(self, method: str, timeout: float, /, **arguments: Json) -> Any: ...
    def close(self) -> None: ...


class Worker:
    """Talks to a process in which something is measured."""

    def __init__(self, device: str, threads: int):
        # In tests and installed copies alike, the child imports the `kernels` that this is part of
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kernels.bench.worker", device, str(threads)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def call(self, method: str, timeout: float, /, **arguments: Json) -> Any:
        """Calls a method over there and waits so many seconds for its result.

        Raises Failed, after which the process is to be closed: an answer that comes late would be taken for the next.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            raise Failed(f"no answer to {method} within {timeout:.0f} s") from None
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(self._read_last_words())
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer["result"]

    def _read_last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with exit code {code}" + (f": {lines[-1].strip()[:120]}" if lines else "")

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # what was still to be sent went to a process that is gone


class Renewed:
    """Opens a remote when it is first called, and another after it failed."""

    def __init__(self, open_remote: Callable[[], Remote]):
        self._open = open_remote
        self._remote: Remote | None = None

    def call(self, method: str, timeout: float, /, **arguments: Json) -> Any:
        """Calls a method of the remote. Raises Failed."""
        if self._remote is None:
            self._remote = self._open()
        try:
            return self._remote.call(method, timeout, **arguments)
        except Failed:
            self.close()
            raise

    def close(self) -> None:
        """Closes the remote, if there is one."""
        if self._remote is not None:
            self._remote.close()
            self._remote = None


def serve() -> None:
    """Answers one request a line until there are no more: the other process's side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("threads", type=int)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import torch

    from kernels.bench.measuring import Runner
    from kernels.bench.providers import why
    from kernels.bench.tuning import GPU_METHODS

    torch.set_num_threads(args.threads)
    runner = Runner(args.device)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            if method in GPU_METHODS:
                result = GPU_METHODS[method](runner, **arguments)
            else:
                result = getattr(runner, method)(**arguments)
            answer = {"result": result}
        except Exception as error:
            answer = {"failed": why(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
