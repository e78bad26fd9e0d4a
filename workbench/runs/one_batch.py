"""One batch of a recipe's own data, and tries to learn it by heart, each from the recipe's own initial weights.

The trap: dropout and augmentation would make another batch of it every step, so both are switched off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.build import Parts, build_engine, build_parts, prepare
from workbench.distributed.processes import Parallel
from workbench.engine import Engine
from workbench.loading.feed import Feed
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.deep_check import PATIENCE, switch_off_dropout
from workbench.runs.floor import Bounds
from workbench.runs.initial_weights import initialise
from workbench.runs.measuring import measure
from workbench.starting import collect_as_usual
from workbench.training.schedule import Schedule
from workbench.types import Batch, Views

ROWS, FEWEST = 256, 16
"""samples of the batch, at most; and what a slow machine may cut it to"""
ENOUGH = 30
"""steps that a try should have before the batch is cut"""
LEARNT = 0.95
"""share of the way from chance to floor at which a try ends"""
MEAN = 3
"""last steps whose mean is compared: some objectives draw their terms"""


@dataclass(frozen=True)
class TermReport:
    """A loss of the batch: what it was, became, and could have become, in nats."""

    name: str
    chance: float | None
    floor: float | None
    first: float
    last: float

    @property
    def share(self) -> float | None:
        """The way from chance to floor that it has gone; None where there is none to go, or it is not known."""
        if self.chance is None:
            return None
        way = self.chance - (self.floor or 0.0)
        return (self.chance - self.last) / way if way > 0.02 * max(self.chance, 1e-9) else None


class Curve(NamedTuple):
    """The losses of a try, by their names, a value a step; "total" is the one that is trained."""

    losses: dict[str, list[float]]
    seconds: float

    @property
    def steps(self) -> int:
        return len(self.losses["total"])

    def mean(self, name: str, at: int | None = None) -> float:
        """Average the last steps before `at`, by default before the end."""
        values = self.losses[name][:at][-MEAN:]
        return math.fsum(values) / len(values)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.losses["total"][-1])


@dataclass(frozen=True)
class Bench:
    """A model and a batch on which tries begin, each from the same weights."""

    parts: Parts
    parallel: Parallel
    batch: Batch
    weights: Mapping[str, Tensor]
    objective: Mapping[str, Tensor]

    def restore(self) -> None:
        """Put the weights back."""
        self.parts.model.load_state_dict(self.weights)
        self.parts.objective.load_state_dict(self.objective)

    def engine(self, lr: float, warmup: int = 0) -> Engine:
        """Put the weights back and make an engine with a fresh optimizer and a constant rate."""
        self.restore()
        engine = build_engine(self.parts, self.parallel)
        engine.schedule = Schedule(lr, warmup, 10**9)
        engine.microbatch = None if (engine.microbatch or 0) >= len(self.batch) else engine.microbatch
        engine.model.train()
        switch_off_dropout(engine.model)
        return engine

    def try_rate(self, lr: float, steps: int, seconds: float, floor: Bounds | None = None, warmup: int = 0) -> Curve:
        """Train on the batch until so many steps or seconds have passed, the loss is learnt, or it is no number."""
        collect_as_usual()
        engine, losses, begin = self.engine(lr, warmup), dict[str, list[float]](), time.perf_counter()
        for _ in range(steps):
            logs = engine.train_step(self.batch)
            engine.step += 1
            shown = {name.removeprefix("loss/"): x for name, x in logs.items() if name.startswith("loss/")}
            for name, x in (shown | {"total": logs["loss"]}).items():
                losses.setdefault(name, []).append(float(x))
            if not math.isfinite(losses["total"][-1]) or time.perf_counter() - begin > seconds:
                break
            if floor and floor.chance is not None and len(losses["total"]) >= MEAN:
                way = floor.chance - (floor.floor or 0.0)
                if max(losses["total"][-MEAN:]) <= floor.chance - LEARNT * way:
                    break
        return Curve(losses, time.perf_counter() - begin)

    def views(self) -> Views:
        """Embed the batch by the weights as they are now."""
        sides = list(self.parts.objective.sides(0))
        with torch.no_grad():
            return self.parts.model(self.batch.inputs, self.batch.valid, sides)


def open_batch(recipe: Recipe) -> Bench:
    """Build the recipe's parts and read one batch, without augmentation."""
    tree: dict[str, Any] = recipe.as_dict()
    rows = min(recipe.train.batch, ROWS)
    tree["train"] |= {"batch": rows, "compile": False, "warmup": "0 steps", "for": "1 steps"}
    if rows % (recipe.train.microbatch or 1):
        tree["train"]["microbatch"] = None
    tree["parallel"] |= {"strategy": "ddp", "copies": 1, "workers": 0}
    tree["eval"] = {"start": False}
    small = parse_recipe(tree)
    parallel = Parallel.join(PATIENCE)
    parts = build_parts(small)
    measure(parts, parallel)
    prepare(parts, parallel)
    if small.model.init:
        initialise(parts.model, parts.objective, small.model.init)
    feed = Feed(parts.transforms(train=False), rows, small.seed)
    batch = next(iter(parts.data.batches(0, feed))).to(parallel.device)
    return Bench(parts, parallel, batch, _copy(parts.model.state_dict()), _copy(parts.objective.state_dict()))


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in state.items()}


def fit_into(bench: Bench, seconds: float) -> Bench:
    """Cut the batch where these seconds would allow too few steps, as the time of a step with a few rows tells."""
    rows, lr = len(bench.batch), bench.parts.recipe.train.lr
    few = _cut(bench, FEWEST)
    few.try_rate(lr, 1, seconds)  # the first one makes buffers
    step = few.try_rate(lr, 1, seconds).seconds
    allowed = int(len(few.batch) * seconds / ENOUGH / step)
    return _cut(bench, max(FEWEST, allowed)) if allowed < rows else bench


def _cut(bench: Bench, rows: int) -> Bench:
    """Take the first rows of the batch."""
    batch = bench.batch
    inputs, valid = ({name: x[:rows] for name, x in tree.items()} for tree in (batch.inputs, batch.valid))
    return replace(bench, batch=Batch(inputs, valid, batch.ids[:rows]))
