"""Any task of `synthetic/` as a data set: symbols with known information content, as vectors, pictures or words.

The trap: what a sample lacks is an input of zeros, as many a real one is: only `valid` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from synthetic.theory.presence import draw, seen_of
from synthetic.theory.task import Task
from workbench.loading.batching import to_float32
from workbench.loading.feed import Feed
from workbench.recipe.component import Component, Spec
from workbench.seeds import generator
from workbench.types import Batch, Items, Modality, Sample, Split

__all__ = ["Synthetic"]

TaskSpec = Annotated[Spec[Task], Component("task")]


class Synthetic:
    """A fixed training set drawn once from the task by the run's seed, and evaluation splits drawn apart from it.

    Which modalities a training sample has is drawn by the run's seed too; evaluation splits are complete.

    Args:
        task: the task and its options, as {name: xor, bits: 3}.
        samples: size of the training set.
        held_out: size of the evaluation splits.
    """

    def __init__(
        self,
        *,
        task: TaskSpec,
        samples: PositiveInt = 5120,
        held_out: PositiveInt = 2000,
    ) -> None:
        self.name, self.samples, self.held_out = task.name, samples, held_out
        self.task = task.build()
        kinds = getattr(self.task, "kinds", {})
        self.modalities = {m: Modality(kinds.get(m, "vector"), tuple(shape)) for m, shape in self.task.shapes.items()}

    def __len__(self) -> int:
        return self.samples

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        codes = self.task.sample(self.samples, generator(feed.seed, "train"))
        valid = draw(seen_of(self.task), self.task.modalities, self.samples, generator(feed.seed, "seen"))
        raw = {m: self.observe(m, codes[m]) for m in self.modalities}
        # a transform that does anything has to be called for each sample
        plain = all(feed.transforms.get(m, to_float32) is to_float32 for m in self.modalities)
        if plain and all(isinstance(x, Tensor) for x in raw.values()):
            yield from self._of_vectors(raw, valid, start, feed)
        else:
            yield from feed.load(_Samples(self.modalities, raw, valid), start)

    def split(self, name: str) -> Split:
        self.check_split(name)
        codes = self.task.sample(self.held_out, generator(name))
        ids = torch.arange(self.held_out)
        return Split({m: Items(self.observe(m, codes[m]), ids) for m in self.modalities}, paired=True)

    def check_split(self, name: str) -> None:
        if name not in ("validation", "test"):
            raise ValueError(f"data synthetic has no split '{name}' (there are: validation, test)")

    def observe(self, modality: str, codes: Tensor) -> Any:
        """Show these codes as samples: a tensor of vectors, or a list of PIL images or texts."""
        seen = self.task.observe(modality, codes)
        if self.modalities[modality].kind != "image":
            return seen
        assert isinstance(seen, Tensor)
        return [Image.fromarray(x) for x in seen.numpy()]

    def _of_vectors(self, raw: dict[str, Any], valid: dict[str, Tensor], start: int, feed: Feed) -> Iterator[Batch]:
        """Batch rows of tensors that are there already: no worker, no copy of one sample at a time."""
        inputs = {m: torch.where(valid[m].view(-1, *[1] * (x.ndim - 1)), x, 0)[:, None] for m, x in raw.items()}
        for _, indices in feed.rows(start, self.samples):
            rows = torch.from_numpy(indices)
            # index_select is the faster one of two ways to the same rows
            chosen = {m: x.index_select(0, rows) for m, x in inputs.items()}
            yield Batch(chosen, {m: v.index_select(0, rows)[:, None] for m, v in valid.items()}, rows)


class _Samples:
    """Pictures, words and vectors as raw samples: the feed transforms and batches them."""

    def __init__(self, modalities: dict[str, Modality], raw: dict[str, Any], valid: dict[str, Tensor]) -> None:
        self.modalities, self.raw, self.valid = modalities, raw, valid

    def __len__(self) -> int:
        return len(next(iter(self.valid.values())))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        return Sample({m: [x[index]] if self.valid[m][index] else [] for m, x in self.raw.items()}, index)
