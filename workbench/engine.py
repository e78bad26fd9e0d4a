"""The one training loop, from XOR on a laptop to image-text pretraining. Read `fit` first.

A callback sees a step at these times:

    on_start       after a resume, before the first batch
    on_gradients   after backward and clipping, before the optimizer update (what raises here leaves the weights alone)
    on_step        after the update, in the order of the list: metrics are recorded before anyone is called
    on_end         after the last step, also when the run was asked to stop
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import Whole, clip_gradients
from workbench.model import Model
from workbench.seeds import seed_torch
from workbench.training.metrics import Best, Metrics
from workbench.training.microbatch import Embedded, Rows, joined, split
from workbench.training.schedule import warmup_cosine
from workbench.types import Batch, Loss, Objective, Side, Skipped

Logs = dict[str, Tensor | float]


class Callback:
    """Every hook does nothing; override what you need."""

    def on_start(self, engine: Engine) -> None: ...
    def on_gradients(self, engine: Engine, logs: Logs) -> None: ...
    def on_step(self, engine: Engine, logs: Logs) -> None: ...
    def on_end(self, engine: Engine) -> None: ...


@dataclass
class Engine:
    """Parts that `build` put together, and the loop over them. `steps` counts optimizer steps."""

    model: Model
    embedding: nn.Module
    """the model for training: `Embedding`, in DistributedDataParallel where that is used"""
    whole: Whole
    """what is evaluated"""
    objective: Objective
    optimizer: torch.optim.Optimizer
    batches: Any
    """start step -> iterator of Batch"""
    parallel: Parallel
    metrics: Metrics
    steps: int
    batch: int
    lr: float
    warmup: int = 0
    microbatch: int | None = None
    """rows of this process that are embedded at once"""
    clip: float | None = None
    precision: str = "fp32"
    seed: int = 0
    log_every: int = 1
    callbacks: list[Callback] = field(default_factory=list)
    step: int = 0
    best: Best | None = None
    skipped: tuple[Skipped, ...] = ()
    """bad samples that were replaced in this step's batch, on this rank"""
    stop_requested: bool = False
    phase: Callable[[str], AbstractContextManager[Any]] = nullcontext
    """what is wrapped around each named part of a step: nothing, unless a profile wants to know its time"""

    @property
    def samples(self) -> int:
        """Batch rows consumed so far."""
        return self.step * self.batch

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    def fit(self) -> None:
        """Train until `steps`, or until a stop is requested; then the current step is finished first."""
        self.model.train()
        self._call("on_start")
        batches: Iterator[Batch] = self.batches(self.step)
        while not self.finished and not self.parallel.any(self.stop_requested):
            started = time.perf_counter()
            with self.phase("data wait"):
                batch = next(batches)
            with self.phase("to device"):
                batch = batch.to(self.parallel.device)
            self.skipped = batch.skipped
            waited = time.perf_counter() - started
            logs = self.train_step(batch)
            self.step += 1
            with self.phase("metrics"):
                self._record(logs, time.perf_counter() - started, waited)
            self._call("on_step", logs)
        self.whole.gather()  # for what the first process does alone
        self._call("on_end")

    def train_step(self, batch: Batch) -> Logs:
        """One optimizer update. Raises what a callback raises at on_gradients, with the weights as they were."""
        self.whole.let_go()  # of what an evaluation has gathered
        lr = self.lr * warmup_cosine(self.step, self.warmup, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        loss = self.gradients(batch)
        parameters = [*self.model.parameters(), *self.objective.parameters()]
        with self.phase("average gradients"):
            self.parallel.average_gradients(parameters)
        with self.phase("clip gradients"):
            norm = clip_gradients(parameters, self.clip)
        logs: Logs = {"loss": loss.total.detach(), "grad_norm": norm, "lr": lr, **loss.logs}
        self._call("on_gradients", logs)
        with self.phase("optimizer"):
            self.optimizer.step()
            self.objective.constrain()
            self.optimizer.zero_grad()
        return logs

    def gradients(self, batch: Batch) -> Loss:
        """The objective on a batch, against all processes' rows, and its gradient in every parameter."""
        chunks, sides = split(batch, self.microbatch), list(self.objective.sides(self.step))
        with self.phase("forward"), torch.set_grad_enabled(len(chunks) == 1):
            views = joined([self._embed(chunk, sides) for chunk in chunks])
        if len(chunks) > 1:
            for side, view in views.items():
                view.z.requires_grad_(self.model.learns(side))
        with self.phase("loss"):
            loss = self.objective(views, self.parallel.pool(views, batch.ids, self.step, self.seed))
        with self.phase("backward"), self.parallel.explained("the sum of the gradients"):
            loss.total.backward()
            if len(chunks) > 1:
                self._go_on(chunks, {side: view.z.grad for side, view in views.items() if view.z.grad is not None})
        return loss

    def _go_on(self, chunks: list[Rows], gradients: dict[Side, Tensor]) -> None:
        """From the embeddings into the parameters; processes meet in the last micro-batch."""
        for chunk in chunks:
            with nullcontext() if chunk is chunks[-1] else self.parallel.alone(self.embedding):
                part = self._embed(chunk, list(gradients))
                reached = [(part[side][0], g[chunk.at]) for side, g in gradients.items() if part[side][0].requires_grad]
                torch.autograd.backward([z for z, _ in reached], [g for _, g in reached])

    def _embed(self, chunk: Rows, sides: list[Side]) -> Embedded:
        """With dropout as a function of the step and the rows, so that it is the same again, and after a resume."""
        where = (self.step, self.parallel.rank) + ((chunk.at.start,) if chunk.at.start else ())
        seed_torch(self.seed, "step", *where)
        with self._autocast():
            return self.embedding(chunk.inputs, chunk.valid, sides)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.parallel.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _record(self, logs: Logs, seconds: float, waited: float) -> None:
        if self.step % self.log_every and not self.finished:
            return
        tensors = {k: v for k, v in logs.items() if isinstance(v, Tensor)}
        values = {f"train/{k}": v for k, v in (logs | self.parallel.average(tensors)).items()}
        clock = {"time/step": seconds, "time/data": waited, "time/samples_per_second": self.batch / seconds}
        self.metrics.record(self.step, self.samples, values | clock)

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            with self.phase(type(callback).__name__):
                getattr(callback, hook)(self, *args)
