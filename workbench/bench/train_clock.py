"""What the trainers of `workbench.bench.train` are timed by: the clock when a step's loss is there, and the memory.

Ours has `Clock` as an evaluator; open_clip's is started by this module (CONFIG OUT ARGS...), which stamps the lines of
its own log. Neither is changed. The trap: a log that is read on a GPU waits for it, so both are stamped every so many
steps only.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from workbench.types import Context


class Clock:
    """An evaluator that yields the time of the clock in seconds, and the largest memory so far in bytes."""

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        yield "seconds", time.perf_counter()
        yield "peak_bytes", peak_bytes()


class Stamps(logging.Handler):
    """Stamps each line of open_clip_train about a step, just before which it has read the loss."""

    LINE = re.compile(r"Train Epoch: 0 \[\s*(\d+)/.*Data \(t\): ([\d.]+) Batch \(t\): ([\d.]+)")

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if line := self.LINE.search(record.getMessage()):
            samples, waited, took = int(line[1]), float(line[2]), float(line[3])
            now = {"seconds": time.perf_counter(), "peak_bytes": peak_bytes()}
            self.rows.append({"samples": samples, "waited": waited, "took": took} | now)


def peak_bytes() -> int:
    """Return the largest memory so far: on the GPU, or of this process without its data workers."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(config: str, out: str, *arguments: str) -> None:
    """Run open_clip's trainer on a model described in a file; write its stamps."""
    import open_clip
    from open_clip_train.main import main as train

    open_clip.add_model_config(config)
    stamps = Stamps()
    logging.root.addHandler(stamps)
    train(arguments)
    Path(out).write_text(json.dumps(stamps.rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
