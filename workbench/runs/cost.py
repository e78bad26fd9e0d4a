"""What a recipe would cost, without data, weights or time: its parts take one training step on fake tensors.

Parameters are counted from the modules, FLOPs by torch's counter over forward and backward, memory from the tensors
that live at once (`live_memory`). Only the hours are an estimate: of an H100 at the speed that `UTILISATION` names.

The trap: an objective reads numbers (which rows exist, which ids are equal), and fake tensors have none. So the step is
fake up to the embeddings and from their gradients on; between them the objective sees real rows of a few samples.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

from workbench.build import Parts, build_objective, build_optimizer, build_parts
from workbench.errors import RecipeError
from workbench.loading.bad_samples import HoldsOut, MayBeMissing
from workbench.loading.draws import build_data
from workbench.recipe.schema import Recipe
from workbench.runs.items import plainest_item
from workbench.runs.live_memory import LiveMemory
from workbench.runs.without_values import WithoutValues
from workbench.training.optim import trainable_parameters
from workbench.types import Data, Pool, Side, View, Views

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

PROBE = 4
"""samples that the objective sees"""
PEAK, UTILISATION = 989e12, 0.4
"""dense bf16 FLOP/s of an NVIDIA H100 SXM (its data sheet), and the part of them that well-tuned pretraining reaches"""


@dataclass(frozen=True)
class Cost:
    """The cost of a recipe. The loss is not in it: 8 M N D FLOPs for a contrast of M with N rows, and linear memory."""

    parameters: dict[str, int]
    """{part: numbers}; `fusion` may exist only while training"""
    frozen: dict[str, int]
    """{part: how many of them} have neither gradient nor moments"""
    flops_per_sample: float
    """in forward and backward, for all views; with micro-batches the forward is computed twice, and counts twice"""
    activation_bytes: int
    """most that a process holds at once of what a step makes besides gradients: activations, weights cast to bf16, what
    the backward pass computes again"""
    spared_bytes: int
    """for gradients that are not there yet while the activations are most: 0 where they stay from step to step"""
    input_bytes_per_sample: int
    """for what the encoders read, which a process holds for its share of the batch"""
    embedding_bytes_per_sample: int
    """for every side's rows and their gradients in fp32, which each process holds for the whole batch"""
    gathered_bytes: int
    """for weights that fsdp has whole at once"""
    state_bytes: int
    """for fp32 weights, and for the gradients and AdamW's two moments of those that are not frozen"""
    batch: int
    samples_at_once: int
    """over all processes: the micro-batch, or the whole batch"""
    total_samples: float | None
    """None when the length of the data cannot be known without reading it"""
    processes: int = 1
    """one for each GPU"""
    shares: int = 1
    """over how many processes weights, gradients and moments are divided (fsdp)"""

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def samples_at_once_each(self) -> int:
        """samples that one process embeds at once"""
        return math.ceil(self.samples_at_once / self.processes)

    @property
    def total_frozen(self) -> int:
        return sum(self.frozen.values())

    @property
    def memory_bytes(self) -> float:
        """memory of one process, without the loss"""
        rows = self.embedding_bytes_per_sample * self.batch + self.input_bytes_per_sample * self.batch / self.processes
        step = self.activation_bytes - self.spared_bytes + self.gathered_bytes
        return self.state_bytes / self.shares + rows + step

    @property
    def activation_bytes_per_sample(self) -> float:
        """activations by the samples that one process embeds at once"""
        return self.activation_bytes / self.samples_at_once_each

    @property
    def gpu_hours(self) -> float | None:
        """hours of all processes together; None when the number of samples is not known"""
        return self.total_samples and self.flops_per_sample * self.total_samples / (PEAK * UTILISATION) / 3600

    @property
    def hours(self) -> float | None:
        """hours until the last step; None when the number of samples is not known"""
        return self.gpu_hours and self.gpu_hours / self.processes

    def as_dict(self) -> dict[str, Any]:
        """Give every number by its name, as `wb pretrain --dry --json` prints them."""
        derived = (
            "total_parameters",
            "total_frozen",
            "samples_at_once_each",
            "activation_bytes_per_sample",
            "memory_bytes",
            "gpu_hours",
            "hours",
        )
        return asdict(self) | {name: getattr(self, name) for name in derived}


def assemble(recipe: Recipe) -> Parts:
    """Build a recipe's parts on the meta device, where every width is checked and nothing allocated.

    Raises RecipeError where the parts do not fit each other, or nothing of the model learns.
    """
    # not under fake tensors from the start: some trunks read small numbers of their own while they are built
    try:
        with torch.device("meta"), WithoutValues():
            parts = build_parts(recipe)
            trainable_parameters(parts.model)
            return parts
    except RuntimeError as error:  # torch's word for a tensor of more than 2^63 bytes, which any size here can lead to
        if "overflow" not in str(error):
            raise
        raise RecipeError("a tensor of this model would have more bytes than can be counted: lower its sizes") from None


def cost(recipe: Recipe, processes: int = 1) -> Cost:
    """Count what one training step takes on so many processes, and how long all of them last.

    Raises ValueError where the parts do not fit each other, or where the objective refuses what it is given.
    """
    refuse_uneven_batch(recipe, processes)
    parts = assemble(recipe)
    parameters, frozen = _parameters(parts), _parameters(parts, frozen=True)
    at_once = min(recipe.train.microbatch or recipe.train.batch, recipe.train.batch)
    forwards = 1 if at_once == recipe.train.batch else 2
    rows = math.ceil(at_once / processes)
    step = _step(parts, rows)
    divided = recipe.parallel.strategy == "fsdp" and processes > recipe.parallel.copies
    # DDP keeps its buckets of gradients, micro-batches add theirs up; a whole batch alone frees activations meanwhile
    spared = 4 * (sum(parameters.values()) - sum(frozen.values())) + step.peak_besides - step.peak
    return Cost(
        parameters=parameters,
        frozen=frozen,
        flops_per_sample=(forwards * step.forward + step.backward) / rows,
        activation_bytes=step.peak_besides,
        spared_bytes=max(0, spared) if forwards == processes == 1 else 0,
        input_bytes_per_sample=step.inputs // rows,
        embedding_bytes_per_sample=2 * 4 * sum(view.z[0].numel() for view in step.views.values()),
        gathered_bytes=_gathered_bytes(parts) if divided else 0,
        state_bytes=16 * sum(parameters.values()) - 12 * sum(frozen.values()),
        batch=recipe.train.batch,
        samples_at_once=at_once,
        total_samples=_total_samples(parts),
        processes=processes,
        shares=max(1, processes // recipe.parallel.copies) if recipe.parallel.strategy == "fsdp" else 1,
    )


class _Step(NamedTuple):
    """The work of the fake step, for all its samples."""

    views: Views
    forward: float
    backward: float
    """FLOPs"""
    inputs: int
    """bytes of what the encoders read"""
    peak: int
    """most bytes at once of what the step makes"""
    peak_besides: int
    """most of them that are no gradients of parameters"""


def count_flops() -> FlopCounterMode:
    """Count the FLOPs inside of a `with` block, attention on the CPU included, which torch's counter takes for
    nothing."""
    # with its formulas for triton, which `wb check` does not need
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(gradient, q, k, v)

    attention = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    # torch's tracker says which module an operation is of, by hooks that keep what checkpointed blocks compute again
    cast(Any, counter).mod_tracker = _NoModules()
    return counter


class _NoModules(nullcontext[None]):
    """Stands for torch's tracker of modules, and knows none."""

    parents = frozenset({"Global"})


def _step(parts: Parts, rows: int) -> _Step:
    """Take forward, backward and update of so many samples on fake tensors; the objective between sees a few real."""
    raw = {m: _inputs(parts, m) for m in parts.model.encoders}
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=parts.recipe.train.precision == "bf16")
    with mode:
        parts.model.to_empty(device="cpu")
        parts.objective.to_empty(device="cpu")
        optimizer = build_optimizer(parts)  # refuses what a run would: a model frozen whole, layer_decay without layers
        inputs = {m: torch.empty(rows, *x.shape[1:], dtype=x.dtype) for m, x in raw.items()}
        valid = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in inputs.items()}
        sides = list(parts.objective.sides(0))
        memory = LiveMemory(parts.model.parameters(), (*parts.model.buffers(), *inputs.values(), *valid.values()))
        with count_flops() as forward, memory, precision:
            views = parts.model(inputs, valid, sides)
    contrasted, own = _contrast(parts, views)
    with mode:
        for parameter, gradient in zip(parts.objective.parameters(), own, strict=True):
            parameter.grad = None if gradient is None else mode.from_tensor(gradient)
        # not those of a tower that is frozen whole
        reached = [s for s, g in contrasted.items() if g is not None and views[s].z.requires_grad]
        with count_flops() as backward, memory:
            torch.autograd.backward([views[s].z for s in reached], [torch.empty_like(views[s].z) for s in reached])
        optimizer.step()
    read = sum(x.nbytes for x in inputs.values())
    work = forward.get_total_flops(), backward.get_total_flops()
    return _Step(views, *work, read, memory.peak, memory.peak_besides)


def _contrast(parts: Parts, views: Views) -> tuple[dict[Side, Tensor | None], list[Tensor | None]]:
    """Compute the loss of real, random rows; returns its gradients, for the rows and for the objective's parameters."""
    recipe = parts.recipe
    objective = build_objective(recipe)
    real = {
        side: View(
            normalize(torch.randn(PROBE, *view.z.shape[1:]), dim=-1).requires_grad_(),
            torch.ones(PROBE, *view.valid.shape[1:]).bool(),
        )
        for side, view in views.items()
    }
    objective(real, Pool(real, torch.arange(PROBE), seed=recipe.seed)).total.backward()
    return {side: view.z.grad for side, view in real.items()}, [p.grad for p in objective.parameters()]


def refuse_uneven_batch(recipe: Recipe, processes: int) -> None:
    """Raises RecipeError where so many processes cannot share the batch evenly, or the copies of the model."""
    batch, copies = recipe.train.batch, recipe.parallel.copies
    if batch % processes:
        microbatch = recipe.train.microbatch
        unit = math.lcm(processes, microbatch or 1)
        both = f", and of train.microbatch ({microbatch})" if microbatch else ""
        raise RecipeError(
            f"train.batch ({batch}) must be a multiple of the number of processes ({processes}){both}: "
            f"set train.batch={max(batch // unit, 1) * unit}, or take another number"
        )
    if recipe.parallel.strategy == "fsdp" and processes % copies:
        raise RecipeError(f"parallel.copies ({copies}) must divide the number of processes ({processes})")


def missing_data(recipe: Recipe, data: Data | None = None) -> str | None:
    """Say in one line what the data set lacks and how to point to it; None when it is there.

    What is held out is needed by evaluators only: one that looked for it in vain would end the run at its first epoch.
    `data` is the recipe's data set, where it is built already.
    """
    data = build_data(recipe) if data is None else data
    missing = data.missing() if isinstance(data, MayBeMissing) else None
    if missing is None and recipe.eval.evaluators and isinstance(data, HoldsOut):
        return data.missing_held_out()
    return missing


def _parameters(parts: Parts, frozen: bool = False) -> dict[str, int]:
    """Count the parameters of each part that has any, or those that are frozen alone."""
    modules: dict[str, nn.Module] = {**parts.model.encoders, "heads": parts.model.heads, "objective": parts.objective}
    if parts.model.fusion is not None:
        modules["fusion"] = parts.model.fusion
    counts = {
        name: sum(p.numel() for p in module.parameters() if not (frozen and p.requires_grad))
        for name, module in modules.items()
    }
    return {name: count for name, count in counts.items() if count}


def _inputs(parts: Parts, modality: str) -> Tensor:
    """Repeat the model input of the plainest raw item, made by the real transform: [1, views, ...]."""
    description = parts.data.modalities[modality]
    x = parts.transforms(train=True)[modality](plainest_item(description))
    return x.expand(1, description.count, *x.shape)


def _total_samples(parts: Parts) -> float | None:
    """Count the samples of the whole training; None where epochs are asked for, and the data cannot be read."""
    span, batch = parts.recipe.train.for_, parts.recipe.train.batch
    if span.unit == "epochs":
        try:
            return parts.steps(span) * batch
        except (ValueError, OSError):
            return None
    return span.value if span.unit == "samples" else span.value * batch


def _gathered_bytes(parts: Parts) -> int:
    """Count what `divide` leaves whole beside the shares: the matrices outside of layers, and of two layers, the one
    that runs and the one that is fetched meanwhile, weights and gradients."""

    def count(module: nn.Module) -> int:
        return sum(4 * p.numel() for p in module.parameters() if p.ndim >= 2)

    layers = [layer for encoder in parts.model.encoders.values() for layer in encoder.repeated()]
    sizes = sorted((count(layer) for layer in layers), reverse=True)
    return 2 * sum(sizes[:2]) + 2 * (count(parts.model) - sum(sizes))
