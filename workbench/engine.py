"""The one training loop, from XOR on a laptop to image-text pretraining. Read `fit` first.

A callback sees a run at these times; callbacks are called in the order of the list, which `runs.callbacks` explains:

    on_start       after a resume, before the first batch
    on_gradients   after averaging and clipping, before the update: what raises here leaves the weights alone
    on_step        after the update and after the step's metrics were recorded
    on_end         after the last step, also when the run was asked to stop
    on_exit        at last, on every way out, errors too: what must be put back or closed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench.distributed.processes import Parallel
from workbench.distributed.sharding import EvaluationModel, clip_gradients
from workbench.model import Model
from workbench.training.metrics import Best, Metrics
from workbench.training.microbatch import Embedded, Slice, join, split
from workbench.training.schedule import Schedule
from workbench.types import Batch, Loss, Objective, Side, Skipped

Logs = dict[str, Tensor | float]


class Callback:
    """Every hook does nothing; override what you need."""

    def on_start(self, engine: Engine) -> None: ...
    def on_gradients(self, engine: Engine, logs: Logs) -> None: ...
    def on_step(self, engine: Engine, logs: Logs) -> None: ...
    def on_end(self, engine: Engine) -> None: ...
    def on_exit(self, engine: Engine) -> None: ...

    def name_phase(self) -> str:
        """Name the time that it takes, for a profile."""
        return type(self).__name__


@dataclass
class Engine:
    """The parts that `build` put together, and the loop over them. A step is an optimizer step."""

    model: Model
    trained: nn.Module
    """the model as the loop calls it: a `TrainedModel`, wrapped where several processes train it"""
    evaluated: EvaluationModel
    objective: Objective
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], Iterator[Batch]]
    """start step -> the batches from there on, without end"""
    parallel: Parallel
    metrics: Metrics
    steps: int
    batch: int
    """samples of a step over all processes"""
    schedule: Schedule
    microbatch: int | None = None
    """rows of this process that are embedded at once"""
    clip: float | None = None
    precision: str = "fp32"
    seed: int = 0
    log_every: int = 1
    callbacks: list[Callback] = field(default_factory=list)
    step: int = 0
    best: Best | None = None
    saved_step: int | None = None
    """the step of the newest whole checkpoint, None before the first"""
    recipe: Mapping[str, object] = field(default_factory=dict)
    """the resolved recipe as YAML has it, for callbacks that tell of it; the loop reads nothing there"""
    folder: Path | None = None
    """the run folder, for callbacks that keep something beside the run's own files; None where nothing is kept"""
    skipped: tuple[Skipped, ...] = ()
    """bad samples that were replaced in this step's batch, on this rank"""
    stop_requested: bool = False
    phase: Callable[[str], AbstractContextManager[object]] = nullcontext
    """what is wrapped around each named part of a step: nothing, unless a profile wants to know its time"""

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of model and objective, which a small run would take longer to list at every step."""
        return [*self.model.parameters(), *self.objective.parameters()]

    @property
    def samples(self) -> int:
        """Batch rows consumed so far."""
        return self.step * self.batch

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    def fit(self) -> None:
        """Train until `steps`, or until a stop is requested; then the current step is finished first."""
        # an evaluation puts the mode back itself, so that this is the only place that sets it
        self.model.train()
        with self._exits():
            for callback in self._in_turn():
                callback.on_start(self)
            with _closing(self.batches(self.step)) as batches:
                # one process may have been asked to stop: all have to leave the loop at the same step
                while not self.finished and not self.parallel.any(self.stop_requested):
                    self._take_step(batches)
            self.evaluated.gather()  # all processes take part, then the first one may evaluate and draw alone
            for callback in self._in_turn():
                callback.on_end(self)

    def _take_step(self, batches: Iterator[Batch]) -> None:
        """Take a batch, train on it, record what it came to, and tell the callbacks."""
        started = time.perf_counter()
        with self.phase("data wait"):
            batch = next(batches, None)
        if batch is None:
            raise ValueError(
                f"the data end at step {self.step} of {self.steps}: batches(start) has to yield without end"
            )
        with self.phase("to device"):
            batch = batch.to(self.parallel.device)
        self.skipped = batch.skipped
        waited = time.perf_counter() - started
        logs = self.train_step(batch)
        self.step += 1
        with self.phase("metrics"):
            self._record(logs, time.perf_counter() - started, waited)
        for callback in self._in_turn():
            callback.on_step(self, logs)

    def train_step(self, batch: Batch) -> Logs:
        """Make one optimizer update. Raises what a callback raises at on_gradients, with the weights as they were."""
        self.evaluated.release()  # the memory of what an evaluation has gathered
        # the rate is a function of the step alone: a resume has nothing of it to restore
        lr = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        loss = self.gradients(batch)
        parameters = self.parameters
        with self.phase("average gradients"):
            self.parallel.average_gradients(parameters)
        with self.phase("clip gradients"):
            norm = clip_gradients(parameters, self.clip)
        # nothing here is read by the CPU yet, which would wait for a GPU: metrics keep tensors until they are flushed
        logs: Logs = {"loss": loss.total.detach(), "grad_norm": norm, "lr": lr, **loss.logs}
        for callback in self._in_turn():
            callback.on_gradients(self, logs)
        with self.phase("optimizer"):
            self.optimizer.step()
            self.objective.constrain()
            self.optimizer.zero_grad()
        return logs

    def gradients(self, batch: Batch) -> Loss:
        """Compute the objective on a batch, against all processes' rows, and add its gradient to every parameter's.

        With several micro-batches the first forward keeps no activations: the loss needs all embeddings at once, but
        its backward pass stops at them, and each micro-batch is embedded again for the rest of the way.
        """
        chunks, sides = split(batch, self.microbatch), list(self.objective.sides(self.step))
        with self.phase("forward"), torch.set_grad_enabled(len(chunks) == 1):
            views = join([self._embed(chunk, sides) for chunk in chunks])
        if len(chunks) > 1:
            # these embeddings are leaves now; a side that nothing trains needs no second forward
            for side, view in views.items():
                view.z.requires_grad_(self.model.learns(side))
        with self.phase("loss"):
            loss = self.objective(views, self.parallel.pool(views, batch.ids, self.step, self.seed))
        with self.phase("backward"), self.parallel.explained("the sum of the gradients"):
            loss.total.backward()
            if len(chunks) > 1:
                reached = {side: view.z.grad for side, view in views.items() if view.z.grad is not None}
                self._backward_through_encoders(chunks, reached)
        return loss

    def _backward_through_encoders(self, chunks: list[Slice], gradients: dict[Side, Tensor]) -> None:
        """Carry the gradients at the embeddings on into the parameters, one micro-batch after the other.

        Gradients add up in each process; processes exchange their sums in the last micro-batch only, or every one of
        them would cost a message.
        """
        for chunk in chunks:
            with nullcontext() if chunk is chunks[-1] else self.parallel.without_sync(self.trained):
                again = self._embed(chunk, list(gradients))
                learning = [(again[side][0], g[chunk.at]) for side, g in gradients.items()]
                # a side may have parts that learn and yet not depend on them: a fusion of detached tokens
                reached = [(z, g) for z, g in learning if z.requires_grad]
                if reached:
                    # the gradient of sum z g in z is g, bit for bit; to hand g to torch.autograd.backward would import
                    # sympy, with which torch compares symbolic shapes: a second of the process
                    torch.stack([(z * g).sum() for z, g in reached]).sum().backward()

    def _embed(self, chunk: Slice, sides: list[Side]) -> Embedded:
        """Embed the rows of a micro-batch.

        What dropout draws is a function of the step and the rows, so that it is drawn again in a second forward of the
        same rows, and by a resumed run. Ranks draw differently, as their rows differ.
        """
        with self._autocast():
            place = (self.seed, self.step, self.parallel.rank, chunk.at.start)
            return self.trained(chunk.inputs, chunk.valid, sides, place)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "bf16":
            return torch.autocast(self.parallel.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _record(self, logs: Logs, seconds: float, waited: float) -> None:
        """Record the step's metrics, averaged over processes, unless `log_every` leaves this step out."""
        if self.step % self.log_every and not self.finished:
            return
        tensors = {k: v for k, v in logs.items() if isinstance(v, Tensor)}
        values = {f"train/{k}": v for k, v in (logs | self.parallel.average(tensors)).items()}
        clock = {"time/step": seconds, "time/data": waited, "time/samples_per_second": self.batch / seconds}
        self.metrics.record(self.step, self.samples, values | clock)

    def _in_turn(self) -> Iterator[Callback]:
        """Yield the callbacks in order, each in a phase of its own name."""
        for callback in self.callbacks:
            with self.phase(callback.name_phase()):
                yield callback

    @contextmanager
    def _exits(self) -> Iterator[None]:
        """Call every callback's on_exit behind the block, the last one first, and raise the first error of all."""
        first: BaseException | None = None
        try:
            yield
        except BaseException as error:
            first = error
        for callback in reversed(self.callbacks):
            try:
                callback.on_exit(self)
            except (Exception, SystemExit) as error:
                first = first or error
        if first:
            raise first


@contextmanager
def _closing(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Close a generator of batches at once, on every way out, which ends its workers: an error keeps it referenced."""
    try:
        yield batches
    finally:
        if isinstance(batches, Generator):
            batches.close()
