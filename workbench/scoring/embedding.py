"""Raw items to embeddings, outside of training: what evaluators, `wb eval` and `workbench.load` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import failure, shorten
from workbench.model import Model
from workbench.types import ClassTable, Context, Evaluator, Side, Transform, View, Views


@dataclass(frozen=True)
class Embedder:
    """Embeds raw items in batches without gradient, in eval mode; afterwards the model has the mode that it had."""

    model: Model
    transforms: Mapping[str, Transform]
    device: torch.device
    batch: int = 256

    def __call__(
        self,
        inputs: Mapping[str, Sequence[Any] | Tensor],
        sides: Sequence[Side],
        valid: Mapping[str, Bool[Tensor, " n"]] | None = None,
    ) -> Views:
        """Embed {modality: n raw items, or a tensor of n model inputs} as {side: View}: fp32 on the CPU, one view each.

        `valid` says which rows have a modality, by default all; a fusion never reads what a row does not have.

        Raises ValueError when the modalities have different numbers of rows, or none, and for an embedding that is no
        number.
        """
        lengths = {modality: len(raw) for modality, raw in inputs.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"rows of the modalities must be aligned and not empty: {lengths}")
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), self._eagerly():
                chunks = list(self._chunks(inputs, sides, valid, next(iter(lengths.values()))))
        finally:
            self.model.train(training)
        views = {side: _joined([chunk[side] for chunk in chunks]) for side in sides}
        for side, view in views.items():
            _refuse_no_number(side, view)
        return views

    def _chunks(
        self,
        inputs: Mapping[str, Sequence[Any] | Tensor],
        sides: Sequence[Side],
        valid: Mapping[str, Bool[Tensor, " n"]] | None,
        length: int,
    ) -> Iterator[Views]:
        valid = valid or dict.fromkeys(inputs, torch.ones(length, dtype=torch.bool))
        for begin in range(0, length, self.batch):
            rows = range(begin, min(begin + self.batch, length))
            batch = {m: self._ready(m, raw, rows)[:, None].to(self.device) for m, raw in inputs.items()}
            there = {m: valid[m][rows.start : rows.stop, None].to(self.device) for m in inputs}
            yield self.model(batch, there, sides)

    def _eagerly(self) -> AbstractContextManager[Any]:
        """Run compiled modules without their compiled code, which is made for the shapes of training."""
        compiled = any(module._compiled_call_impl is not None for module in self.model.modules())
        return torch.compiler.set_stance("force_eager") if compiled else nullcontext()  # its import takes seconds

    def _ready(self, modality: str, raw: Sequence[Any] | Tensor, rows: range) -> Tensor:
        """Transform these rows to model inputs; a tensor already holds model inputs.

        Raises ValueError, in one message with the item, for whatever its reading raises, for NaN and infinity, and for
        items of different shapes.
        """
        if isinstance(raw, Tensor):
            return raw[rows.start : rows.stop]
        items: list[Tensor] = []
        for row in rows:
            name = f"item {row} of '{modality}'"
            try:
                x = self.transforms[modality](raw[row])
            except BaseException as error:  # whatever a data set of one's own may raise
                raise failure(name, error, "") from None
            if x.is_floating_point() and not x.isfinite().all():
                raise ValueError(f"{name} holds {x[~x.isfinite()][0].item()}: mend it, or leave it out of the split")
            if items and x.shape != items[0].shape:
                shapes = f"is {list(x.shape)}, item {rows.start} {list(items[0].shape)}"
                raise ValueError(f"{name} {shapes}: a modality needs one shape; pad or cut them in the data's class")
            items.append(x)
        return torch.stack(items)


def _joined(parts: Sequence[View]) -> View:
    return View(torch.cat([v.z.float().cpu() for v in parts]), torch.cat([v.valid.cpu() for v in parts]))


def _refuse_no_number(side: Side, view: View) -> None:
    bad = (~view.z.isfinite().all(-1) & view.valid).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"side '{side}': the embedding of item {bad[0]} is no number (so are {len(bad)} of {len(view.z)}): "
            f"{'the weights' if len(bad) == len(view.z) else 'that item, or the weights,'} hold NaN, infinity, or "
            "numbers that overflow"
        )


def evaluate(evaluators: Mapping[str, Evaluator], context: Context) -> Iterator[tuple[str, float]]:
    """Run every evaluator and yield its facts, named under its recipe key.

    Raises ValueError, with the key, for what is no fact, and for a name that was yielded before.
    """
    said: set[str] = set()
    for prefix, evaluator in evaluators.items():
        facts = evaluator.run(replace(context, report=partial(_report_under, prefix, context.report)))
        if facts is None:
            raise ValueError(f"eval.{prefix} yields nothing: its `run` has no `yield`")
        for fact in facts:
            name, value = _read_fact(prefix, fact)
            whole = f"{prefix}/{name}"
            if whole in said:  # by this evaluator, or by another with a slash in its key
                raise ValueError(f"eval.{prefix} yields '{whole}' again: one value would hide the other")
            said.add(whole)
            yield whole, value


def _report_under(prefix: str, report: Callable[[str, ClassTable], None], name: str, table: ClassTable) -> None:
    report(f"{prefix}/{name}" if name else prefix, table)


def _read_fact(prefix: str, fact: object) -> tuple[str, float]:
    """Read (name, number). Raises ValueError for anything else, which only an evaluator of one's own yields."""
    try:
        name, value = fact  # type: ignore[misc]
        return str(name), float(value)
    except (TypeError, ValueError, RuntimeError):  # the last is a tensor's of several numbers
        raise ValueError(
            f"eval.{prefix} yields {shorten(repr(fact))}: a fact is a pair of a name and a number"
        ) from None
