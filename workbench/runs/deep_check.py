"""Parts checked by what they compute: one change after the other that must not change a gradient, and whether it does.

A batch in another order, in micro-batches, divided over two processes, or without the other rows: the whole program
relies on it that none of these matters. `wb check --deep` tries them on a few rows of the recipe's own data, and finds
an objective that forgets the rows of other processes or an encoder that mixes samples before a long run does.

The trap: dropout draws other numbers for other micro-batches, so it is switched off here.
"""

from __future__ import annotations

import os
import queue
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import multiprocessing as mp

from workbench.build import build_engine, build_parts, prepare
from workbench.distributed.processes import Parallel
from workbench.engine import Engine
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.seeds import seed_torch
from workbench.types import Batch, Side

ROWS = 16
"""samples in the batch that is compared, at most"""
TOLERANCE = 1e-3
"""relative difference of gradients in float32 that rounding explains; what is wrong is mostly off by more than .1"""
PATIENCE = 180.0
"""seconds that the two processes may take"""

REMEDIES = {
    "order": "a loss may not depend on the order of the samples: ids, not places, tell which rows belong together",
    "alone": "an encoder or fusion mixes the samples of a batch (as BatchNorm does): row i of its output must depend "
    "on row i of its input alone",
    "micro-batches": "the model gives a sample other embeddings in a smaller batch, or draws random numbers that do "
    "not follow torch's seed",
    "processes": "the objective gets this process's rows (z) and everybody's (pool): contrast z with pool.views, and "
    "return pool.world times this process's share of the loss",
}
"""{check: what is mostly wrong when it fails}"""


Embeddings = dict[Side, Tensor]
"""{side: unit rows [b, k, d], 0 where there is none}"""


class Gradients(NamedTuple):
    """A loss, and its gradient in every parameter that has one, by name."""

    loss: float
    by_name: dict[str, Tensor]


@dataclass(frozen=True)
class Finding:
    """The outcome of one comparison."""

    name: str
    difference: float | None
    """relative, of the gradient or the embeddings; None where it was not tried"""
    note: str = ""
    """why it failed, or why it was not tried"""

    @property
    def passed(self) -> bool:
        return self.difference is None or self.difference <= TOLERANCE


def check_deeply(recipe: Recipe) -> list[Finding]:
    """Compare the gradients of a few rows under every change that must not matter.

    Reads the training data. Raises RecipeError and ValueError where the recipe's parts do not fit each other.
    """
    small = _small(recipe)
    engine = _engine(small)
    batch = next(iter(engine.batches(0)))
    model_draws = _model_draws(engine, batch)
    engine.model.train(not model_draws)
    whole = _gradients(engine, batch)
    if not all(x.isfinite().all() for x in whole.by_name.values()):
        return [
            Finding("finite", float("inf"), f"the first batch has the loss {whole.loss} and a gradient that is not")
        ]
    fixed = not _objective_draws(engine, batch, whole)
    return [
        _alone(engine, batch),
        _against(whole, "order", _gradients(engine, _shuffled(batch)) if fixed else None),
        _against(whole, "micro-batches", _in_micro_batches(engine, batch)),
        _against(whole, "processes", _on_two_processes(small, batch, evaluating=model_draws)),
    ]


def _small(recipe: Recipe) -> Recipe:
    """The recipe for one batch of a few rows, in float32."""
    tree: dict[str, Any] = recipe.as_dict()
    rows = min(ROWS, recipe.train.batch // 4 * 4)
    if rows < 4:
        raise ValueError(
            f"train.batch={recipe.train.batch} is too small to be divided and compared: set it to 4 or more"
        )
    tree["train"] |= {"batch": rows, "microbatch": None, "precision": "fp32", "compile": False, "clip": None}
    tree["parallel"] |= {"strategy": "ddp", "copies": 1, "workers": 0}
    tree["eval"] = {"start": False}
    return parse_recipe(tree)


def _engine(recipe: Recipe) -> Engine:
    parallel = Parallel.join(PATIENCE)
    engine = build_engine(prepare(build_parts(recipe), parallel), parallel)
    engine.model.train()
    switch_off_dropout(engine.model)
    return engine


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout to 0: torch's own, and those of timm and open_clip, which have other names for it."""
    for module in model.modules():
        if "drop" in type(module).__name__.lower() or isinstance(module, nn.MultiheadAttention):
            for name in ("p", "drop_prob", "prob", "dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)


def _gradients(engine: Engine, batch: Batch) -> Gradients:
    """The loss of a batch and its gradient, averaged over processes; the weights stay as they are."""
    named = {f"model.{n}": p for n, p in engine.model.named_parameters()}
    named |= {f"objective.{n}": p for n, p in engine.objective.named_parameters()}
    engine.optimizer.zero_grad()
    loss = engine.gradients(batch)
    engine.parallel.average_gradients(list(named.values()))
    found = {n: p.grad.detach().clone() for n, p in named.items() if p.grad is not None}
    total = engine.parallel.average({"loss": loss.total.detach()})["loss"]
    return Gradients(float(total), found)


def _model_draws(engine: Engine, batch: Batch) -> bool:
    """Whether the model embeds the same batch otherwise under another seed, dropout being off."""
    return _apart(*(_embed(engine, batch, seed) for seed in (1, 2))) > TOLERANCE


def _objective_draws(engine: Engine, batch: Batch, whole: Gradients) -> bool:
    """Whether the loss of the same embeddings is another one under another seed."""
    engine.seed += 1
    other = _gradients(engine, batch)
    engine.seed -= 1
    return _difference(whole, other) > TOLERANCE


def _embed(engine: Engine, batch: Batch, seed: int = 0) -> Embeddings:
    """Embed a batch as {side: unit rows}, without gradient."""
    seed_torch(seed)
    with torch.no_grad():
        views = engine.model(batch.inputs, batch.valid, engine.objective.sides(0))
    return {side: view.z * view.valid[..., None] for side, view in views.items()}


def _apart(a: Embeddings, b: Embeddings) -> float:
    """The largest distance between two embeddings of the same sample; they have unit length."""
    return max(float((a[side] - b[side]).norm(dim=-1).max()) for side in a)


def _alone(engine: Engine, batch: Batch) -> Finding:
    """Whether the first half of the batch is embedded alike without the second one."""
    half = len(batch) // 2
    alone = _embed(engine, _rows(batch, slice(half)))
    difference = _apart(alone, {side: z[:half] for side, z in _embed(engine, batch).items()})
    return Finding("alone", difference, "" if difference <= TOLERANCE else REMEDIES["alone"])


def _rows(batch: Batch, at: slice | Tensor) -> Batch:
    def take(tree: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x[at] for name, x in tree.items()}

    return Batch(take(batch.inputs), take(batch.valid), batch.ids[at], take(batch.targets))


def _shuffled(batch: Batch) -> Batch:
    return _rows(batch, torch.arange(len(batch)).flip(0).roll(3))


def _in_micro_batches(engine: Engine, batch: Batch) -> Gradients:
    engine.microbatch = len(batch) // 4
    found = _gradients(engine, batch)
    engine.microbatch = None
    return found


def _on_two_processes(recipe: Recipe, batch: Batch, evaluating: bool) -> Gradients:
    """The batch's gradient as two processes compute it, each from its half. Raises ValueError with what one says."""
    context = mp.get_context("spawn")
    answers: Any = context.Queue()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = (port, recipe.as_dict(), batch, evaluating, answers)
    ranks = [context.Process(target=_one_of_two, args=(rank, *arguments), daemon=True) for rank in (0, 1)]
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # DistributedDataParallel warns of what these few rows do not use
    with _environment(quiet):
        for process in ranks:
            process.start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise ValueError(f"two processes did not come to an end in {PATIENCE:.0f} s: one waits for the other") from None
    finally:
        for process in ranks:
            process.kill()
    if isinstance(answer, str):
        raise ValueError(answer)
    return Gradients(answer[0], {name: torch.from_numpy(x) for name, x in answer[1].items()})


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """A block whose child processes have these variables, too."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _one_of_two(rank: int, port: int, tree: dict[str, Any], batch: Batch, evaluating: bool, answers: Any) -> None:
    """Be one of the two processes: the first answers with the gradient, and whichever fails answers with its error."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        engine = _engine(parse_recipe(tree))
        engine.model.train(not evaluating)
        half = len(batch) // 2
        loss, by_name = _gradients(engine, _rows(batch, slice(rank * half, rank * half + half)))
        if rank == 0:
            answers.put((loss, {name: x.numpy() for name, x in by_name.items()}))
    except Exception as error:
        answers.put(f"with two processes: {type(error).__name__}: {error}")


def _difference(a: Gradients, b: Gradients) -> float:
    """|a - b| / |a| over all parameters together; a part that only one of them has counts whole."""
    names = a.by_name.keys() | b.by_name.keys()
    apart = [a.by_name.get(n, 0.0) - b.by_name.get(n, torch.zeros(())) for n in names]
    norm = torch.stack([x.norm() for x in a.by_name.values()]).norm()
    distance = torch.stack([torch.as_tensor(x).norm() for x in apart]).norm()
    return float(distance / norm.clamp(min=1e-12))


def _against(whole: Gradients, name: str, other: Gradients | None) -> Finding:
    if other is None:
        return Finding(name, None, "not tried: the objective draws random numbers for the places of the batch")
    difference = _difference(whole, other)
    return Finding(name, difference, "" if difference <= TOLERANCE else REMEDIES[name])
