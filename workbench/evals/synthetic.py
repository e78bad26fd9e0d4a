"""A synthetic task's answers: accuracy beside its Bayes value, and the loss beside its exact optimum.

The trap: the optimum holds at the training batch, with sample ids and modalities missing as in training, on samples the
model has not seen. A loss on training samples, or with equal codes counted as positives, is measured against the wrong
floor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from pydantic import Field, PositiveInt
from torch import Tensor

from synthetic.theory.optima import Optimum
from synthetic.theory.presence import draw, seen_of
from synthetic.theory.task import Task
from synthetic.theory.truth import Truth
from workbench.scoring.ranking import best_ranks
from workbench.scoring.verdict import recovered
from workbench.seeds import generator
from workbench.types import Context, Data, Objective, Pool, Question, Side, Views

__all__ = ["Synthetic"]

Labelled = tuple[Float32[np.ndarray, "n h"], Int64[np.ndarray, " n"]]
"""embeddings and the label of each"""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Accuracy and loss on fresh samples of a synthetic task, beside what is possible. Losses are in nats.

    Yields `accuracy`, `chance`, `bayes`, `loss` (the training loss) and `loss_se`; where the optimum is known, `floor`,
    `no_information_loss` and `recovered` = (no_information_loss - loss) / (no_information_loss - floor), left out when
    there is nothing to recover. Accuracy is that of the target, on complete samples: a modality is retrieved from the
    others, among every code it can take; a label that is never shown is read by a logistic regression from the
    objective's embeddings, concatenated.

    Args:
        batches: fresh batches behind the mean loss, each of the training batch
        samples: fresh samples behind the accuracy, and as many again to fit the regression
        given: modalities that the target is predicted from; the task says, by default

    Raises ValueError when the data set is not a synthetic task, a score is NaN, or `given` is not what the task has.
    """

    batches: Annotated[int, Field(ge=2)] = 40
    samples: PositiveInt = 2000
    given: tuple[str, ...] | None = None

    def check(self, objective: Objective, data: Data) -> None:
        task = _task_of(data)
        given = self.given or getattr(task, "given", None) or tuple(m for m in task.modalities if m != task.target)
        others = [m for m in task.modalities if m != task.target]
        if not set(given) <= set(others) or len(set(given)) < len(given):
            raise ValueError(f"given={list(given)}: '{task.target}' is predicted from some of {', '.join(others)}")
        if task.target in task.modalities:
            _ask(objective, given, task.target)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield; the last three need a known optimum."""
        measured = ["accuracy", "chance", "bayes", "loss", "loss_se"]
        return [*measured, "floor", "no_information_loss", "recovered"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        task = _task_of(context.data)
        truth = task.truth(context.batch)
        if self.given is not None:
            truth = truth.predicted_from(self.given)
        fresh = generator(context.seed, "synthetic evaluation")  # apart from what training draws

        hidden = task.target not in task.modalities
        yield "accuracy", (self._probe if hidden else self._retrieval)(context, task, truth.given, fresh)
        yield "chance", truth.chance
        yield "bayes", truth.bayes_accuracy

        losses = self._losses(context, task, fresh)
        loss = losses.mean().item()
        yield "loss", loss
        yield "loss_se", losses.std().item() / math.sqrt(self.batches)
        optimum = known_optimum(context.objective, truth)
        if optimum is None:
            return
        floor, no_information = optimum
        yield "floor", floor
        yield "no_information_loss", no_information
        share = recovered(loss, floor, no_information)
        if share is not None:
            yield "recovered", share

    def _retrieval(self, context: Context, task: Task, given: tuple[str, ...], fresh: torch.Generator) -> float:
        """Compute the share of the samples whose target, of all its codes, is the one that scores best."""
        objective, codes = context.objective, task.sample(self.samples, fresh)
        alphabet = torch.arange(task.codes[task.target])
        asked = _ask(objective, given, task.target)
        query = _embed(context, {m: codes[m] for m in given}, asked.query)
        candidates = _embed(context, {task.target: alphabet}, [asked.candidates])
        # a code may carry more than its symbol, as how it is drawn: symbols are equal modulo the alphabet
        ranks = best_ranks(objective.score, query, candidates, codes[task.target] % len(alphabet), alphabet)
        return (ranks == 1).double().mean().item()

    def _probe(self, context: Context, task: Task, given: tuple[str, ...], fresh: torch.Generator) -> float:
        """Fit a logistic regression of the label on the sides that are made of given modalities alone, and return its
        accuracy on fresh samples."""
        from sklearn.linear_model import LogisticRegression

        sides = [side for side in context.objective.all_sides if set(side.members) <= set(given)]
        (x, y), (x_new, y_new) = (self._features(context, task, sides, fresh) for _ in range(2))
        return float(LogisticRegression(C=100.0, max_iter=1000).fit(x, y).score(x_new, y_new))

    def _features(self, context: Context, task: Task, sides: list[Side], fresh: torch.Generator) -> Labelled:
        codes = task.sample(self.samples, fresh)
        views = _embed(context, {m: codes[m] for m in task.modalities}, sides)
        return torch.cat([view.z[:, 0] for view in views.values()], dim=1).numpy(), codes[task.target].numpy()

    @torch.no_grad()
    def _losses(self, context: Context, task: Task, fresh: torch.Generator) -> Float64[Tensor, " batches"]:
        losses, seen = [], seen_of(task)
        for step in range(self.batches):  # a stochastic objective draws anew at each step
            codes = task.sample(context.batch, fresh)
            valid = draw(seen, task.modalities, context.batch, fresh) if len(seen) > 1 else None
            z = _embed(context, {m: codes[m] for m in task.modalities}, context.objective.sides(step), valid)
            pool = Pool(z, torch.arange(context.batch), step=step, seed=context.seed)
            losses.append(context.objective(z, pool).total.double())
        return torch.stack(losses)


def known_optimum(objective: Objective, truth: Truth) -> Optimum | None:
    """Ask an objective for its optimum; None where it has inherited the answer, and computes another loss than it.

    Raises ValueError where the least loss lies above the loss of knowing nothing.
    """
    classes = type(objective).__mro__
    owner = {name: next(i for i, c in enumerate(classes) if name in vars(c)) for name in ("forward", "optimum")}
    found = objective.optimum(truth) if owner["optimum"] <= owner["forward"] else None
    if found is None:
        return None
    best = Optimum(*found)
    if not best.value <= best.no_information * (1 + 1e-9):
        raise ValueError(
            f"{type(objective).__name__}.optimum: the least loss, {best.value:.4g}, lies above that of knowing "
            f"nothing, {best.no_information:.4g}: return Optimum(value, no_information) in nats"
        )
    return best


def _task_of(data: Data) -> Task:
    task: Task | None = getattr(data, "task", None)
    if task is None:
        raise ValueError("evaluator 'synthetic' needs a synthetic task: set data.name=synthetic or leave it out")
    return task


def _ask(objective: Objective, given: tuple[str, ...], target: str) -> Question:
    """Ask how the target is found. Raises ValueError where nothing that is trained finds it."""
    asked = objective.ask(given, target)
    if asked is None:
        raise ValueError(
            f"no term of the objective contrasts '{target}' with {', '.join(given)}: nothing predicts it, so add such "
            "a term, or say by `given` what it is predicted from"
        )
    return asked


def _embed(
    context: Context,
    codes: dict[str, Int64[Tensor, " n"]],
    sides: Sequence[Side],
    valid: dict[str, Bool[Tensor, " n"]] | None = None,
) -> Views:
    raw = {m: context.data.observe(m, c) for m, c in codes.items()}  # type: ignore[attr-defined]
    return context.embed(raw, sides) if valid is None else context.embed(raw, sides, valid)
