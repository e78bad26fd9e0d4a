"""A process that trains one run after another, as it is told: `python -m workbench.studies.worker THREADS`.

It reads a run a line from stdin and writes what happens a line to stdout, both JSON; `side_by_side` is the other end.

The traps: a process must not outlive the command that started it, or it keeps the lock of its run folder and the next
command is refused, so it ends when stdin does, also in the middle of a step. And whatever else prints would be taken
for news, so that file descriptors 0 and 1 are put away before anything is imported that could print.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO, TypedDict

from workbench.errors import explain
from workbench.recipe.yaml_file import Tree
from workbench.starting import collect_rarely

NEWS_EVERY = 0.2
"""seconds between two lines about steps"""


class Order(TypedDict):
    """A run to be trained."""

    recipe: Tree
    folder: str | None
    log: str | None
    """a file for what the run says; None leaves that on stderr"""
    command: list[str]
    """of the process that gives the order, which environment.json tells"""


def main() -> None:
    """Train what is ordered until stdin ends."""
    orders, news = os.dup(0), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    told: SimpleQueue[Order] = SimpleQueue()
    threading.Thread(target=_listen, args=(orders, told), daemon=True).start()
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent's to say what ends, by SIGTERM
    import torch

    from workbench.distributed.processes import device
    from workbench.training.allocator import keep_memory

    torch.set_num_threads(int(sys.argv[1]))
    if device().type == "cpu":
        keep_memory()
    while True:
        order = told.get()
        sys.argv = order["command"]
        with _log(order["log"]), warnings.catch_warnings():  # or the second run of a process would warn of nothing
            _tell(news, _outcome(order, news))


def _listen(orders: int, told: SimpleQueue[Order]) -> None:
    """Hand on orders as they come, and end this process when there will be no more.

    Reads by the system's own call: a data worker that is forked while a thread holds a Python file waits for ever.
    """
    rest = b""
    while chunk := os.read(orders, 2**16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            told.put(json.loads(line))
    os._exit(0)


def _tell(news: TextIO, event: Mapping[str, object]) -> None:
    try:
        news.write(json.dumps(event) + "\n")
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)


@contextmanager
def _log(path: str | None) -> Iterator[None]:
    """Write what is said in this block, by C code and data workers too, behind what a file has already."""
    if path is None:
        yield
        return
    before = os.dup(1), os.dup(2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        for number in (1, 2):
            os.dup2(file, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(before, start=1):
            os.dup2(old, number)
        for number in (file, *before):
            os.close(number)


def _outcome(order: Order, news: TextIO) -> Mapping[str, object]:
    """Train; returns what came of it, as the last line of news has it."""
    try:
        return _train(order, news)
    except Exception as error:
        traceback.print_exc()
        said = explain(error)
        if said.startswith("an unforeseen"):  # its traceback is in the log
            said = f"an unforeseen {type(error).__name__}: {error}"
        return {"failed": type(error).__name__, "said": said}


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _say_nothing(_: str) -> None: ...


def _train(order: Order, news: TextIO) -> Mapping[str, object]:
    from workbench.engine import Callback, Engine, Logs
    from workbench.recipe.schema import parse_recipe
    from workbench.runs.report import evaluations
    from workbench.runs.train import train

    class Progress(Callback):
        told = 0.0

        def on_start(self, engine: Engine) -> None:
            _tell(news, {"step": engine.step, "steps": engine.steps})

        def on_step(self, engine: Engine, logs: Logs) -> None:
            if engine.finished or time.monotonic() - self.told > NEWS_EVERY:
                self.told = time.monotonic()
                _tell(news, {"step": engine.step, "steps": engine.steps})

    folder = Path(order["folder"]) if order["folder"] else None
    logged = order["log"] is not None
    outcome = train(
        parse_recipe(order["recipe"]),
        folder,
        say=_say if logged else _say_nothing,
        console=logged,
        callbacks=[Progress()],
    )
    if not outcome.finished:
        where = f"stopped at step {outcome.step} of {outcome.steps}"
        return {"failed": "Stopped", "said": where + (", saved; the same command goes on" if folder else "")}
    last = (evaluations(outcome.records) or [{}])[-1]
    return {
        "facts": {name: value for name, value in last.items() if name.startswith("eval/")},
        "total_weight": outcome.parts.objective.total_weight,
        "seconds": sum(record.get("time/step", 0.0) for record in outcome.records),
    }


if __name__ == "__main__":
    main()
