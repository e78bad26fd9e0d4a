"""metrics.jsonl: one JSON object a line, written in step order and never behind by more than a second.

Values stay on the device until they are flushed: on a GPU one copy a second instead of a stall every step.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import writing

Record = dict[str, Any]
PATIENCE = 0.5
"""seconds that device values may wait; half of what readers of the file are promised"""


class Metrics:
    """Buffer in front of metrics.jsonl; without a `path` the records stay in memory (short trials, other processes)."""

    def __init__(self, path: Path | None, *, on_device: bool = False) -> None:
        self.records: list[Record] = []
        self.listeners: list[Callable[[Record], None]] = []
        self._path = path
        self._file = path.open("ab", buffering=0) if path else None  # nothing is left over to fail again at exit
        self._pending: list[tuple[Record, list[str], Tensor | None]] = []
        self._on_device, self._flushed = on_device, time.monotonic()

    def record(self, step: int, samples: int, values: Mapping[str, Tensor | float]) -> None:
        """Add a line. Tensors are scalars and may still be computing."""
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        stacked = torch.stack([v.detach().double().reshape(()) for v in tensors.values()]) if tensors else None
        line: Record = {"step": step, "samples": samples} | {k: None if k in tensors else v for k, v in values.items()}
        self._pending.append((line, list(tensors), stacked))
        if not self._on_device or time.monotonic() - self._flushed > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Write what is pending and tell the listeners."""
        for line, names, stacked in self._pending:
            if stacked is not None:
                line.update(zip(names, stacked.tolist(), strict=True))
            self.records.append(line)
            self._write(json.dumps(line) + "\n")
            for listener in self.listeners:
                listener(line)
        self._pending.clear()
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
        self.sync()
        if self._file:
            self._file.close()


def read(path: Path) -> list[Record]:
    """Records of a metrics file; a last line that was cut off by a crash is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def rewind(path: Path, step: int) -> list[Record]:
    """Drop every line after `step`, so that a resumed run writes them again; a run that begins at step 0 writes all of
    them. Returns what is kept."""
    kept = [record for record in read(path) if record["step"] <= step] if step else []
    temporary = path.with_suffix(".tmp")
    with writing(path):
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(temporary, path)
    return kept


@dataclass
class Best:
    """The best evaluation so far."""

    metric: str
    value: float
    step: int
