"""What a recipe would cost, without data, weights or time: its parts and one training step on fake tensors.

Counted, not estimated, where it can be: parameters from the modules, FLOPs by torch's counter over forward and
backward, activations from what autograd really saves. Only the hours are an estimate, and say of what.

The trap: an objective reads numbers (which rows exist, which ids are equal), and fake tensors have none. So the step is
fake up to the embeddings and from their gradients on; between them the objective sees real rows of a few samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from workbench.build import Parts, build_objective, build_optimizer, build_parts
from workbench.loading.bad_samples import MayBeMissing
from workbench.recipe.schema import Recipe
from workbench.runs.items import plainest_item
from workbench.types import Pool, Side, View, Views

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}
"""torch's counter knows the attention of GPUs and takes that of CPUs for nothing"""
PROBE = 4
"""samples of the fake step; costs are per sample, so a few suffice"""
PEAK, UTILISATION = 989e12, 0.4
"""dense bf16 FLOP/s of an NVIDIA H100 SXM (its data sheet), and the share of it that well-tuned pretraining reaches"""


@dataclass(frozen=True)
class Cost:
    """Costs of a recipe; FLOPs and activations without the loss (8 M N D FLOPs a contrast, linear memory)."""

    parameters: dict[str, int]
    """by part; `fusion` may exist only while training"""
    frozen: dict[str, int]
    """of these, by part: without gradient and moments"""
    flops_per_sample: float
    """forward and backward, all views; what is computed again, as with micro-batches the forward, counts again"""
    activation_bytes_per_sample: float
    embedding_bytes_per_sample: int
    """every side's rows and their gradients in fp32; each process holds them for the whole batch"""
    state_bytes: int
    """fp32 weights; gradients and AdamW's two moments of those that are not frozen"""
    batch: int
    samples_at_once: int
    """the micro-batch, or the whole batch"""
    total_samples: float | None
    """None when the length of the data is not known without reading it"""
    processes: int = 1
    """one a GPU"""
    shares: int = 1
    """processes that weights, gradients and moments are divided over (fsdp)"""

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def samples_at_once_each(self) -> int:
        """on one process"""
        return math.ceil(self.samples_at_once / self.processes)

    @property
    def total_frozen(self) -> int:
        return sum(self.frozen.values())

    @property
    def memory_bytes(self) -> float:
        """of one process"""
        embeddings = self.embedding_bytes_per_sample * self.batch
        return (
            self.state_bytes / self.shares + embeddings + self.activation_bytes_per_sample * self.samples_at_once_each
        )

    @property
    def gpu_hours(self) -> float | None:
        return self.total_samples and self.flops_per_sample * self.total_samples / (PEAK * UTILISATION) / 3600

    @property
    def hours(self) -> float | None:
        return self.gpu_hours and self.gpu_hours / self.processes

    def as_dict(self) -> dict[str, Any]:
        derived = ("total_parameters", "total_frozen", "samples_at_once_each", "memory_bytes", "gpu_hours", "hours")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def assemble(recipe: Recipe) -> Parts:
    """The recipe's parts on the meta device: checks every width without allocating one. Raises RecipeError.

    Not under fake tensors from the start: some trunks read small numbers of their own while they are built.
    """
    with torch.device("meta"):
        return build_parts(recipe)


def cost(recipe: Recipe, processes: int = 1) -> Cost:
    """One training step, for so many processes. Raises ValueError where parts do not fit, or the objective refuses."""
    parts = assemble(recipe)
    step = _step(parts)
    parameters, frozen = _parameters(parts), _parameters(parts, frozen=True)
    at_once = min(recipe.train.microbatch or recipe.train.batch, recipe.train.batch)
    forwards = 1 if at_once == recipe.train.batch else 2
    return Cost(
        parameters=parameters,
        frozen=frozen,
        flops_per_sample=(forwards * step.forward + step.backward) / PROBE,
        activation_bytes_per_sample=step.saved / PROBE,
        embedding_bytes_per_sample=2 * 4 * sum(view.z[0].numel() for view in step.views.values()),
        state_bytes=16 * sum(parameters.values()) - 12 * sum(frozen.values()),
        batch=recipe.train.batch,
        samples_at_once=at_once,
        total_samples=_total_samples(parts),
        processes=processes,
        shares=max(1, processes // recipe.parallel.copies) if recipe.parallel.strategy == "fsdp" else 1,
    )


class _Step(NamedTuple):
    views: Views
    forward: float
    backward: float
    """FLOPs"""
    saved: int
    """bytes kept for the backward pass"""


def count_flops() -> FlopCounterMode:
    """Counts the FLOPs of a block, attention on the CPU included."""
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)


def _step(parts: Parts) -> _Step:
    """Forward, backward and update of PROBE samples on fake tensors, but for the objective."""
    raw = {m: _inputs(parts, m) for m in parts.model.encoders}
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=parts.recipe.train.precision == "bf16")
    with mode:
        parts.model.to_empty(device="cpu")
        parts.objective.to_empty(device="cpu")
        optimizer = build_optimizer(parts)  # refuses what a run would: a model frozen whole, layer_decay without layers
        inputs = {m: mode.from_tensor(x) for m, x in raw.items()}
        valid = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in inputs.items()}
        sides = list(parts.objective.sides(0))
        with count_flops() as forward, _saved_bytes(parts) as saved, precision:
            views = parts.model(inputs, valid, sides)
    rows, own = _contrast(parts, views)
    with mode:
        for parameter, gradient in zip(parts.objective.parameters(), own, strict=True):
            parameter.grad = None if gradient is None else mode.from_tensor(gradient)
        reached = {
            side: mode.from_tensor(gradient)
            for side, gradient in rows.items()
            if gradient is not None and views[side].z.requires_grad  # not those of a tower that is frozen whole
        }
        with count_flops() as backward:
            torch.autograd.backward([views[side].z for side in reached], list(reached.values()))
        optimizer.step()
    return _Step(views, forward.get_total_flops(), backward.get_total_flops(), sum(saved.values()))


def _contrast(parts: Parts, views: Views) -> tuple[dict[Side, Tensor | None], list[Tensor | None]]:
    """Gradients of the loss, for the views' rows and for the objective's own parameters, at real, random rows."""
    recipe = parts.recipe
    objective = build_objective(recipe)
    real = {
        side: View(normalize(torch.randn(view.z.shape), dim=-1).requires_grad_(), torch.ones(view.valid.shape).bool())
        for side, view in views.items()
    }
    objective(real, Pool(real, torch.arange(PROBE), seed=recipe.seed)).total.backward()
    return {side: view.z.grad for side, view in real.items()}, [p.grad for p in objective.parameters()]


def missing_data(recipe: Recipe) -> str | None:
    """One line on what the data set lacks and how to point to it; None when it is there."""
    data = recipe.data.build()
    return data.missing() if isinstance(data, MayBeMissing) else None


def _parameters(parts: Parts, frozen: bool = False) -> dict[str, int]:
    modules: dict[str, Any] = {**parts.model.encoders, "heads": parts.model.heads, "fusion": parts.model.fusion}
    modules["objective"] = parts.objective
    counts = {
        name: sum(p.numel() for p in m.parameters() if not (frozen and p.requires_grad))
        for name, m in modules.items()
        if m is not None
    }
    return {name: count for name, count in counts.items() if count}


def _inputs(parts: Parts, modality: str) -> Tensor:
    """PROBE x views of the plainest raw item, through the real transform."""
    description = parts.data.modalities[modality]
    x = parts.transforms(train=True)[modality](plainest_item(description))
    return x.expand(PROBE, description.count, *x.shape)


def _total_samples(parts: Parts) -> float | None:
    span, batch = parts.recipe.train.for_, parts.recipe.train.batch
    if span.unit == "epochs":
        try:
            return parts.steps(span) * batch
        except (ValueError, OSError):
            return None
    return span.value if span.unit == "samples" else span.value * batch


@contextmanager
def _saved_bytes(parts: Parts) -> Iterator[dict[int, int]]:
    """{storage: bytes} of what autograd saves for the backward pass, parameters left out."""
    own = {p.untyped_storage()._cdata for p in parts.model.parameters()}
    saved: dict[int, int] = {}
    alive = []  # a storage that is freed would give its address to the next one

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield saved


def print_cost(recipe: Recipe, found: Cost) -> None:
    """For people, on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe.name}: one step on fake tensors", show_header=False)
    table.add_row("tried", f"forward, backward, AdamW; the objective on real rows of {PROBE} samples")
    table.add_row("parameters", f"{found.total_parameters / 1e6:.1f} M parameters")
    for name, count in found.parameters.items():
        frozen = found.frozen.get(name)
        table.add_row(f"  {name}", _millions(count) + (f", {_millions(frozen)} of them frozen" if frozen else ""))
    trainable = _millions(found.total_parameters - found.total_frozen)
    table.add_row("  together", f"{trainable} trainable, {_millions(found.total_frozen)} frozen")
    again = ", forward again for micro-batches" if found.samples_at_once < found.batch else ""
    flops = f"{found.flops_per_sample / 1e9:.1f} GFLOPs, forward and backward{again}, all views"
    table.add_row("FLOPs per sample", flops)
    table.add_row("memory, states", f"{found.state_bytes / 2**30:.2f} GiB: fp32 weights, gradients, AdamW moments")
    activations = f"{found.activation_bytes_per_sample / 2**20:.1f} MiB a sample"
    table.add_row("memory, activations", f"{activations}, {found.samples_at_once_each} at once")
    embeddings = found.embedding_bytes_per_sample * found.batch / 2**30
    table.add_row(
        "memory, embeddings", f"{embeddings:.2f} GiB: all sides' rows of the batch of {found.batch}, and gradients"
    )
    states = f"states divided by {found.shares}" if found.shares > 1 else "with all states on each"
    gpus = "one GPU" if found.processes == 1 else f"{found.processes} GPUs"
    table.add_row("memory, a GPU", f"{found.memory_bytes / 2**30:.2f} GiB, {states}; the loss adds its chunks")
    if found.hours is not None and found.gpu_hours is not None and found.total_samples is not None:
        speed = f"{UTILISATION:.0%} of an H100's {PEAK / 1e12:.0f} TFLOP/s (dense bf16)"
        table.add_row("time", f"{found.hours:,.1f} hours on {gpus}, {found.gpu_hours:,.1f} GPU-hours")
        table.add_row("", f"for {found.total_samples:,.0f} samples at {speed}, never waiting for data or the network")
    else:
        table.add_row("time", "not known: the length of the data is not, and train.for is in epochs")
    Console().print(table)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e4 else f"{count}"
