"""metrics.jsonl: one JSON object a line, written in step order and never behind by more than a second.

Values stay on the device until they are flushed: on a GPU that is one copy a second instead of a stall every step.
The file of a run is read without torch, which only recording imports.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.errors import writing

if TYPE_CHECKING:
    from torch import Tensor

HEADLINES = ("mean_recall", "accuracy", "l2m")
"""the metrics of which each stands for its evaluator: a line or a table has them first"""
Record = dict[str, Any]
PATIENCE = 0.5
"""seconds that device values may wait; half of what readers of the file are promised"""
LESS_IS_BETTER = ("rank", "loss", "error", "mae", "perplexity", "l2m", "l2i", "rmg", "gap", "alignment", "uniformity")
"""words in the last part of a metric's name, as `median_rank`, by which the smaller value is the better one"""


class Metrics:
    """A buffer in front of metrics.jsonl; without a `path` records stay in memory (short trials, other processes).

    As a context it is closed on every way out, so that the steps before an error can be read.
    """

    def __init__(self, path: Path | None = None, *, on_device: bool = False) -> None:
        self.records: list[Record] = []
        self.earlier: list[Record] = []
        """those of the run before it was resumed"""
        self.listeners: list[Callable[[Record], None]] = []
        self._path, self._file = path, None
        self._pending: list[tuple[Record, list[str], Tensor | None]] = []
        self._on_device, self._flushed = on_device, time.monotonic()

    def open(self, step: int) -> None:
        """Open the file behind the lines up to `step`, after which a resumed run goes on; later ones are removed."""
        if self._path:
            self.earlier = rewind(self._path, step)
            self._file = self._path.open("ab", buffering=0)  # nothing is left over to fail again at exit

    def record(self, step: int, samples: int, values: Mapping[str, Tensor | float]) -> None:
        """Add a line. Tensors are scalars and may still be computing."""
        import torch

        if not self._on_device:  # there is nothing to wait for
            values = {k: float(v) if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        tensors = {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
        stacked = torch.stack([v.detach().double().reshape(()) for v in tensors.values()]) if tensors else None
        line: Record = {"step": step, "samples": samples} | {k: None if k in tensors else v for k, v in values.items()}
        self._pending.append((line, list(tensors), stacked))
        if not self._on_device or time.monotonic() - self._flushed > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Write what is pending and tell the listeners."""
        pending, self._pending = self._pending, []  # a line that cannot be written is not tried again
        for line, names, stacked in pending:
            if stacked is not None:
                line.update(zip(names, stacked.tolist(), strict=True))
            self.records.append(line)
            self._write(json.dumps(line) + "\n")
            for listener in self.listeners:
                listener(line)
        self._flushed = time.monotonic()

    def _write(self, text: str) -> None:
        if self._file and self._path:
            with writing(self._path):
                rest = text.encode()
                while rest:  # a full disk takes a part before it refuses
                    rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        """Flush to the disk itself: a checkpoint must never be newer than the metrics before it."""
        self.flush()
        if self._file and self._path:
            with writing(self._path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Bring everything to the disk and close the file. Raises OSError."""
        try:
            self.sync()
        finally:
            if self._file:
                self._file.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.close()
        except Exception:
            if error is None:  # else the first error is the one to say, and often the reason of this one
                raise


def read(path: Path) -> list[Record]:
    """Read the records of a metrics file; a last line that was cut off by a crash is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def rewind(path: Path, step: int) -> list[Record]:
    """Drop every line after `step`, so that a resumed run writes them again; returns what is kept.

    A run that begins at step 0 writes all of its lines again, those of the evaluation before training too.
    """
    kept = [record for record in read(path) if record["step"] <= step] if step else []
    temporary = path.with_suffix(".tmp")
    with writing(path):
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(temporary, path)
    return kept


@dataclass
class Best:
    """The best evaluation so far, by one metric."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class Criterion:
    """Which of two evaluations is the better one: a metric, and its direction."""

    metric: str
    less: bool = False
    """whether the smaller value is the better one"""

    @staticmethod
    def parse(text: str) -> Criterion:
        """Read `eval.best`: a metric whose name tells its direction, or `min METRIC`, `max METRIC`."""
        direction, _, metric = text.rpartition(" ")
        words = metric.rpartition("/")[2].split("_")
        return Criterion(metric, direction == "min" or (not direction and any(w in LESS_IS_BETTER for w in words)))

    def improves(self, value: float | None, best: Best | None) -> bool:
        """Whether a value is better than the best so far, which counts only if it is of the same metric.

        What is no number is never better, so that it cannot stay the best for ever.
        """
        if value is None or math.isnan(value):
            return False
        if best is None or best.metric != self.metric or math.isnan(best.value):
            return True
        return value < best.value if self.less else value > best.value

    def best_of(self, records: Iterable[Record]) -> Best | None:
        """Find the best evaluation among records; of equal values the first."""
        best = None
        for record in records:
            value: float | None = record.get(f"eval/{self.metric}")
            if value is not None and self.improves(value, best):
                best = Best(self.metric, value, record["step"])
        return best
