"""Any other task with modalities missing at random: each is absent from a share of the samples, whatever its code.

The process and its complete samples are those of the other task. The trap: only a share (1 - m)^M of the samples is
complete, so what drops incomplete ones sees a much smaller batch, and its loss has another floor.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import synthetic
from synthetic.theory.joint import Joint
from synthetic.theory.presence import seen_of, thin
from synthetic.theory.truth import Truth

if TYPE_CHECKING:
    from synthetic.theory.task import Task

__all__ = ["Missing"]


class Missing:
    """The task `of`, each of whose modalities is missing completely at random (Rubin 1976). Accuracies are those of
    complete samples; the optima of the losses are those of batches with modalities missing as in training.

    Args:
        of: a task by its name, or a block {name: parity, bits: 1}.
        rate: m, probability that a modality of a sample is missing: one number, or one for each modality by name.
    """

    def __init__(self, *, of: str | dict[str, object] = "xor", rate: float | dict[str, float] = 0.2) -> None:
        self.task = _build({"name": of} if isinstance(of, str) else of)
        self.modalities, self.target = self.task.modalities, self.task.target
        self.codes, self.shapes = self.task.codes, self.task.shapes
        self.given = getattr(self.task, "given", tuple(m for m in self.modalities if m != self.target))
        self.kinds: dict[str, str] = getattr(self.task, "kinds", dict.fromkeys(self.modalities, "vector"))
        rates = rate if isinstance(rate, Mapping) else dict.fromkeys(self.modalities, rate)
        if set(rates) != set(self.modalities) or not all(0 <= r < 1 for r in rates.values()):
            raise ValueError(f"rate ({rate}) is a share from 0 to below 1 of each of {', '.join(self.modalities)}")
        self.seen = thin(seen_of(self.task), rates)

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self.task.sample(n, generator)

    def observe(self, modality: str, codes: Tensor) -> Tensor | list[str]:
        return self.task.observe(modality, codes)

    def joint(self) -> Joint | None:
        return self.task.joint()

    def truth(self, batch: int = 256) -> Truth:
        return replace(self.task.truth(batch), task="missing", seen=self.seen)


def _build(block: Mapping[str, object]) -> Task:
    """Build the task that a block names. Raises ValueError for an unknown task or option, or what the task itself
    refuses."""
    modules = [m.name for m in pkgutil.iter_modules(synthetic.__path__) if not m.ispkg]
    files = {module.rstrip("_").replace("_", "-"): module for module in modules}
    name = str(block.get("name"))
    if name not in files:
        raise ValueError(f"no task '{name}' to take modalities from: give one of {', '.join(sorted(files))}")
    module = importlib.import_module(f"synthetic.{files[name]}")
    (task,) = module.__all__
    try:
        return getattr(module, task)(**{key: value for key, value in block.items() if key != "name"})
    except TypeError as error:
        raise ValueError(f"task '{name}': {error}") from None
