"""Names every bad sample in skipped.jsonl, counts them as data/skipped, and fails the run when they are too many."""

from __future__ import annotations

import json
import os
from pathlib import Path

from workbench.engine import Callback, Engine, Logs
from workbench.loading.bad_samples import MAX_BAD, LeavesOut, refuse_too_many
from workbench.training.metrics import rewind
from workbench.types import Data, Skipped

__all__ = ["BadSamples", "BadSamplesOfEvaluations"]


class BadSamples(Callback):
    """A sample counts once, however many epochs meet it. Stands before the checkpoint callback: a checkpoint is never
    newer than the names before it, so a resume counts as if it had not been interrupted.

    Args:
        file: skipped.jsonl of the run: a line {step, name, reason, training} for each; None keeps no names.
        data: the data set; where it LeavesOut samples by itself (incomplete pairs, bad ones of evaluation splits),
            those are named, too.
    """

    def __init__(self, file: Path | None, data: Data) -> None:
        self.file, self.data = file, data
        # asked once: to look through a Protocol takes longer than all else that a step does here
        self._leaves_out = data if isinstance(data, LeavesOut) else None
        self.max_bad = MAX_BAD if self._leaves_out is None else self._leaves_out.max_bad
        self.known: set[str] = set()
        self.bad: list[Skipped] = []
        """those of training batches: a data set judges what it leaves out itself"""

    def on_start(self, engine: Engine) -> None:
        lead = engine.parallel.rank == 0
        records = rewind(self.file, engine.step) if lead and self.file and self.file.exists() else []
        for record in engine.parallel.gather_objects(records, "the bad samples so far")[0]:
            self._remember(Skipped(record["name"], record["reason"]), record["training"])
        self._collect(engine)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        self._collect(engine)

    def collect_left_out(self, engine: Engine) -> None:
        """Name what the data set has left out since, on the process that evaluates, without asking the others."""
        new = [(s, False) for s in self._take_left_out() if self._remember(s, False)]
        if new:
            self._write(engine, new)

    def _take_left_out(self) -> list[Skipped]:
        kept = [] if self._leaves_out is None else self._leaves_out.skipped
        taken = list(kept)
        kept.clear()
        return taken

    def _collect(self, engine: Engine) -> None:
        found = [(s, True) for s in engine.skipped] + [(s, False) for s in self._take_left_out()]
        # most steps meet none, and then one number is exchanged in the place of lists
        if not engine.parallel.any(bool(found)):
            return
        everywhere = [pair for of_rank in engine.parallel.gather_objects(found, "bad samples") for pair in of_rank]
        new = [(s, training) for s, training in everywhere if self._remember(s, training)]
        if new and engine.parallel.rank == 0:
            self._write(engine, new)
        seen = min(engine.samples, len(self.data))  # later epochs meet the same samples again
        refuse_too_many(self.bad, seen, self.max_bad, f"All names are in {self.file}. " if self.file else "")

    def _remember(self, skipped: Skipped, training: bool) -> bool:
        """Count a bad sample unless it is known; returns whether it is new."""
        new = skipped.name not in self.known
        self.known.add(skipped.name)
        if new and training:
            self.bad.append(skipped)
        return new

    def _write(self, engine: Engine, new: list[tuple[Skipped, bool]]) -> None:
        if self.file:
            with self.file.open("a", encoding="utf-8") as file:
                for s, training in new:
                    line = {"step": engine.step, "name": s.name, "reason": s.reason, "training": training}
                    file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        engine.metrics.record(engine.step, engine.samples, {"data/skipped": len(self.known)})


class BadSamplesOfEvaluations(Callback):
    """Names the bad samples that an evaluation has found in its split, at its step; stands behind the evaluation.

    Args:
        bad_samples: counts and names them, with those of training.
    """

    def __init__(self, bad_samples: BadSamples) -> None:
        self.bad_samples = bad_samples

    def on_start(self, engine: Engine) -> None:
        self._collect(engine)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        self._collect(engine)

    def _collect(self, engine: Engine) -> None:
        if engine.parallel.rank == 0:
            self.bad_samples.collect_left_out(engine)
