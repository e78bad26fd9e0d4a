"""A synthetic task's answers: accuracy beside its Bayes value, and the loss beside its exact optimum.

The trap: the optimum holds at the training batch, with sample ids, on samples the model has not seen. A loss on
training samples, or with equal codes counted as positives, is measured against the wrong floor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float64, Int64
from pydantic import Field, PositiveInt
from torch import Tensor

from workbench.ranking import best_ranks
from workbench.seeds import generator
from workbench.types import Context, Pool, Views
from workbench.verdict import recovered

__all__ = ["Synthetic"]


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Accuracy and loss on fresh samples of a synthetic task, beside what is possible. Losses are in nats.

    Yields `accuracy` (the target modality predicted from all the others, among every code it can take), `chance`,
    `bayes`, `loss` (the training loss) and `loss_se`; where the optimum is known, `floor`, `no_information_loss`
    and `recovered` = (no_information_loss - loss) / (no_information_loss - floor), left out when there is nothing to
    recover.

    Args:
        batches: fresh batches behind the mean loss, each of the training batch
        samples: fresh samples behind the accuracy

    Raises ValueError when the data set is not a synthetic task, or a score is NaN.
    """

    batches: Annotated[int, Field(ge=2)] = 40
    samples: PositiveInt = 2000

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        task = getattr(context.data, "task", None)
        if task is None:
            raise ValueError("evaluator 'synthetic' needs a synthetic task: set data.name=synthetic or leave it out")
        truth = task.truth(context.batch)
        fresh = generator(context.seed, "synthetic evaluation")  # apart from what training draws

        yield "accuracy", self._accuracy(context, task, fresh)
        yield "chance", truth.chance
        yield "bayes", truth.bayes_accuracy

        losses = self._losses(context, task, fresh)
        loss = losses.mean().item()
        yield "loss", loss
        yield "loss_se", losses.std().item() / math.sqrt(self.batches)
        optimum = context.objective.optimum(truth)
        if optimum is None:
            return
        floor, no_information = optimum
        yield "floor", floor
        yield "no_information_loss", no_information
        share = recovered(loss, floor, no_information)
        if share is not None:
            yield "recovered", share

    def _accuracy(self, context: Context, task: Any, fresh: torch.Generator) -> float:
        others = tuple(m for m in task.modalities if m != task.target)
        codes = task.sample(self.samples, fresh)
        alphabet = torch.arange(task.codes[task.target])
        sides = context.objective.query_sides(others, task.target)
        if not sides:
            raise ValueError(f"no term of the objective contrasts '{task.target}' with {others}: nothing predicts it")
        query = _embed(context, task, {m: codes[m] for m in others}, sides)
        candidates = _embed(context, task, {task.target: alphabet}, [task.target])
        ranks = best_ranks(context.objective.score, query, candidates, codes[task.target], alphabet)
        return (ranks == 1).double().mean().item()

    @torch.no_grad()
    def _losses(self, context: Context, task: Any, fresh: torch.Generator) -> Float64[Tensor, " batches"]:
        losses = []
        for step in range(self.batches):  # a stochastic objective draws anew at each step
            codes = task.sample(context.batch, fresh)
            sides = [str(side) for side in context.objective.sides(step)]
            z = _embed(context, task, codes, sides)
            pool = Pool(z, torch.arange(context.batch), step=step, seed=context.seed)
            losses.append(context.objective(z, pool).total.double())
        return torch.stack(losses)


def _embed(context: Context, task: Any, codes: dict[str, Int64[Tensor, " n"]], sides: list[str]) -> Views:
    return context.embed({m: task.observe(m, c) for m, c in codes.items()}, sides)
