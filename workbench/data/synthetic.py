"""Any task of `synthetic/` as a data set: symbols with known information content, observed as vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import PositiveInt

from workbench.component import Spec, component
from workbench.feed import Feed
from workbench.seeds import generator
from workbench.types import Batch, Items, Modality, Split

__all__ = ["Synthetic"]


class Synthetic:
    """A fixed training set drawn once from the task by the run's seed, and evaluation splits drawn apart from it.

    Args:
        task: the task and its options, as {name: xor, bits: 3}.
        samples: size of the training set.
        held_out: size of the evaluation splits.
    """

    def __init__(
        self,
        *,
        task: component("task"),  # type: ignore[valid-type]
        samples: PositiveInt = 5120,
        held_out: PositiveInt = 2000,
    ) -> None:
        spec: Spec = task
        self.name, self.samples, self.held_out = spec.name, samples, held_out
        self.task: Any = spec.build()
        self.modalities = {m: Modality("vector", tuple(shape)) for m, shape in self.task.shapes.items()}

    def __len__(self) -> int:
        return self.samples

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        codes = self.task.sample(self.samples, generator(feed.seed, "train"))
        inputs = {m: self.task.observe(m, codes[m])[:, None] for m in self.modalities}
        valid = torch.ones(self.samples, 1, dtype=torch.bool)
        for _, indices in feed.rows(start, self.samples):
            rows = torch.from_numpy(indices)
            yield Batch({m: x[rows] for m, x in inputs.items()}, dict.fromkeys(inputs, valid[rows]), rows)

    def split(self, name: str) -> Split:
        if name not in ("validation", "test"):
            raise ValueError(f"data synthetic has no split '{name}' (there are: validation, test)")
        codes = self.task.sample(self.held_out, generator(name))
        ids = torch.arange(self.held_out)
        return Split({m: Items(self.task.observe(m, codes[m]), ids) for m in self.modalities}, paired=True)
