"""The training loss on samples that training never saw, beside what is possible where the data follow a known law.

The trap: a loss belongs to its batch size and to its split: with other ones it is another number, and a small
difference between two objectives' losses says nothing, as they are sums of other terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Int64
from torch import Tensor

from synthetic.theory.joint import Joint
from synthetic.theory.task import Task
from synthetic.theory.truth import Truth
from workbench.evals.synthetic import known_optimum
from workbench.recipe.component import Component, Spec
from workbench.scoring.examples import Examples
from workbench.scoring.ranking import take
from workbench.scoring.splits import refuse_missing_splits
from workbench.scoring.verdict import recovered
from workbench.seeds import generator
from workbench.types import Context, Data, Objective, Pool, Side

__all__ = ["HeldOutLoss"]

TaskSpec = Annotated[Spec[Task], Component("task")]


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The objective's loss on a held-out split, in nats, at the training batch and with sample ids.

    The split's complete samples are shuffled and cut into batches; what is left over is not used. Yields `loss`, their
    mean, and its standard error `loss_se`. Where `task` says by which law the samples were drawn, and an optimum is
    known, also `floor`, the least loss of a model that perceives perfectly, `no_information_loss`, and
    `recovered` = (no_information_loss - loss) / (no_information_loss - floor).

    Args:
        split: evaluation split of the data set
        task: the synthetic task that the samples are a picture of, as {name: modsum, size: 10}; its modalities are
            those of the objective, in their order

    Raises ValueError when the split holds fewer than two batches, or the task has another number of modalities.
    """

    split: str = "validation"
    task: TaskSpec | None = None

    def check(self, objective: Objective, data: Data) -> None:
        refuse_missing_splits(data, self.split)
        if self.task:
            rename(self.task.build(), objective.modalities)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield; the last three need a task with a known optimum."""
        return ["loss", "loss_se", "floor", "no_information_loss", "recovered"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        losses = self._losses(context)
        loss = losses.mean().item()
        yield "loss", loss
        yield "loss_se", losses.std().item() / math.sqrt(len(losses))
        if self.task is None:
            return
        law = rename(self.task.build(), context.objective.modalities)
        truth = Truth.of(self.task.name, law, context.objective.modalities[-1], context.batch)
        optimum = known_optimum(context.objective, truth)
        if optimum is None:
            return
        yield "floor", optimum.value
        yield "no_information_loss", optimum.no_information
        if (share := recovered(loss, *optimum)) is not None:
            yield "recovered", share

    @torch.no_grad()
    def _losses(self, context: Context) -> Tensor:
        objective = context.objective
        members = tuple(dict.fromkeys(m for side in objective.all_sides for m in side.members))
        examples = Examples.of(context.data.split(self.split), Side.joining(members))
        views = examples.views(context, list(objective.all_sides))
        losses = []
        for step, rows in enumerate(cut(len(examples.ids), context.batch, context.seed)):
            z = take({side: views[side] for side in objective.sides(step)}, rows)
            losses.append(objective(z, Pool(z, examples.ids[rows], step=step, seed=context.seed)).total.double().cpu())
        return torch.stack(losses)


def cut(length: int, batch: int, seed: int) -> list[Int64[Tensor, " batch"]]:
    """Shuffle so many rows by the seed and cut them into batches. Raises ValueError when there are fewer than two."""
    if length < 2 * batch:
        raise ValueError(
            f"{length} complete samples make {length // batch} batches of {batch}, and a standard error needs two: "
            f"take a larger split, or set train.batch={max(1, length // 2)} or less"
        )
    order = torch.randperm(length, generator=generator(seed, "held-out loss"))
    return list(order[: length - length % batch].split(batch))


def rename(task: Task, modalities: Sequence[str]) -> Joint:
    """Give the task's exact distribution under the names of modalities, in their order.

    Raises ValueError where there are not as many as the task has, or it lists no outcomes.
    """
    if len(modalities) != len(task.modalities):
        raise ValueError(
            f"the task has {len(task.modalities)} modalities ({', '.join(task.modalities)}), the objective aligns "
            f"{len(modalities)} ({', '.join(modalities)}): name a task with as many"
        )
    joint = task.joint()
    if joint is None:
        raise ValueError("the task lists no outcomes, so no optimum is known: leave `task` out")
    shown = joint.marginal(tuple(task.modalities))
    return Joint(dict(zip(modalities, shown.codes.values(), strict=True)), shown.support, shown.probability)
