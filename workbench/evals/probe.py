"""Probes: a small model of a label on frozen embeddings, of single sides, fused ones and several put together.

The trap: what a probe reads out may be the small model's work. Its strength is chosen on a validation split, never on
the test items, and every input is probed on the same samples; read the accuracy beside `majority`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import PositiveInt

from workbench.evals._readouts import READOUTS, Labels, Readout, readout_of
from workbench.scoring.classes import names_of, table_of_answers, table_of_sets
from workbench.scoring.examples import Examples
from workbench.scoring.sides import refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.seeds import generator
from workbench.types import ClassTable, Context, Data, Objective, Side

__all__ = ["Probe"]


class Samples(NamedTuple):
    """Embeddings of the same n samples, by side, and their labels."""

    z: dict[Side, Float64[np.ndarray, "n d"]]
    labels: Labels
    readout: Readout
    unlabelled: int

    def features(self, sides: Sequence[Side]) -> Float64[np.ndarray, "n h"]:
        """Concatenate the embeddings of these sides."""
        return np.concatenate([self.z[side] for side in sides], axis=1)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a small model reads of a label on test items, for each input: `image/accuracy`, `image+text/accuracy`.

    Features are standardised. The strength of the L2 penalty that does best on the validation split (of equals, the
    likeliest) is fitted again on both splits together; with `shots`, on the shots alone. All inputs are read from the
    same samples: the items of the first modality, each with those of its own sample (else the first of its id). Yields
    `chance` (1 / classes) and `majority` (share of the commonest test class), then `{input}/accuracy` and
    `{input}/balanced_accuracy` (mean recall of the classes present). Items without a label are left out; `unlabelled`
    is the number of such test items, where there are any.

    Of a label with several classes (`many: true`) each has a classifier of its own, and the strength is that of the
    best weighted F1. Yields `{input}/weighted_f1` (mean over classes, by their test items) and `{input}/macro_f1`
    (plain mean), and before them `always_weighted_f1` and `always_macro_f1`, of saying every class of every item:
    no constant answer does better.

    Of a label that is a number (`number: true`) it is a regression, and the strength is that of the least squared
    error. Yields `{input}/r2` (1 - squared error / variance), `{input}/mae` (mean absolute error, in the label's unit)
    and `{input}/spearman` (correlation of the ranks), and before them `always_r2`, of saying the training mean of every
    item, and `always_mae`, of saying the training median.

    Args:
        kind: `linear`, logistic or ridge regression, or `mlp`, one hidden layer of 256 units by Adam
        label: which target, as the data set names it
        on: inputs: a side, or a list of sides whose embeddings are concatenated; `single` stands for each modality by
            itself, `fused` for each fusion that the objective trains, `concatenated` for all single ones together
            (`concatenated_single`) and all single and fused ones together (`concatenated_all`)
        train: split that the small model is fitted on
        validation: split that chooses the strength
        split: split that is reported
        shots: so many training samples of each class, drawn by the run's seed; default: all. Of one class each alone
        limit: samples of a split, at most, drawn by the run's seed; shots are not limited

    Raises ValueError when a split lacks the label or a side, there is no input, or training has a single class or
    number, or none of several classes that some samples have and others lack.
    """

    kind: Literal["linear", "mlp"] = "linear"
    label: str = "group"
    on: tuple[str | tuple[str, ...], ...] = ("single", "fused", "concatenated")
    train: str = "train"
    validation: str = "validation"
    split: str = "test"
    shots: PositiveInt | None = None
    limit: PositiveInt = 2000

    def __post_init__(self) -> None:
        splits = {"train": self.train, "validation": self.validation, "split": self.split}
        for a, b in combinations(splits, 2):
            if splits[a] == splits[b]:
                raise ValueError(
                    f"{a} and {b} are both '{splits[a]}': what a probe is fitted on, what chooses its strength "
                    "and what is reported have to be different splits"
                )

    def check(self, objective: Objective, data: Data) -> None:
        for sides in self._inputs(objective).values():
            refuse_untrained(objective, *sides)
        refuse_missing_splits(data, self.train, self.validation, self.split)
        refuse_missing_label(data, self.label)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield; which of them depends on the label."""
        facts = [fact for readout in READOUTS for fact in readout.facts]
        base = [fact for readout in READOUTS for fact in readout.base]
        return [*base, "unlabelled", *(f"{name}/{fact}" for name in self._inputs(objective) for fact in facts)]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        inputs = self._inputs(context.objective)
        sides = list(dict.fromkeys(side for concatenated in inputs.values() for side in concatenated))
        train, validation, test = (self._samples(context, s, sides) for s in (self.train, self.validation, self.split))
        readout = train.readout
        try:
            base = readout.without_features(train.labels, test.labels)
        except ValueError as error:
            raise ValueError(f"probe: label '{self.label}' of split '{self.train}' {error}") from None
        yield from zip(readout.base, base, strict=True)
        if test.unlabelled:
            yield "unlabelled", test.unlabelled
        for name, concatenated in inputs.items():
            fitted = readout.fit(
                self.kind,
                context.seed,
                (train.features(concatenated), train.labels),
                (validation.features(concatenated), validation.labels),
                again=not self.shots,
            )
            found = fitted.predict(test.features(concatenated))
            if table := self._table(context, found, test.labels):
                context.report(name, table)
            for fact, value in zip(readout.facts, readout.rate(found, test.labels), strict=True):
                yield f"{name}/{fact}", value

    def _table(self, context: Context, found: Labels, labels: Labels) -> ClassTable | None:
        """Count the answers class by class; None where they are numbers."""
        if labels.dtype.kind == "f":
            return None
        known = labels.shape[1] if labels.ndim == 2 else int(max(found.max(), labels.max())) + 1
        names = names_of(context.data.split(self.split), self.label, known)
        said, right = torch.from_numpy(found), torch.from_numpy(labels)
        return table_of_sets(names, right, said.bool()) if labels.ndim == 2 else table_of_answers(names, right, said)

    def _inputs(self, objective: Objective) -> dict[str, tuple[Side, ...]]:
        """Name the inputs: {name: sides that are concatenated}."""
        known = dict.fromkeys(Side(side.members, side.fused, side.head) for side in objective.all_sides)
        direct = {side.members for side in known if side.head is None}
        # a modality is seen through a second head where that is all that is trained of it
        single = tuple(side for side in known if len(side.members) == 1 and not (side.head and side.members in direct))
        fused = tuple(side for side in known if len(side.members) > 1)
        together = {"concatenated_single": single} | ({"concatenated_all": single + fused} if fused else {})
        inputs: dict[str, tuple[Side, ...]] = {}
        for entry in self.on:
            if entry == "concatenated":
                inputs |= together
            elif entry in ("single", "fused"):
                inputs |= {str(side): (side,) for side in (single if entry == "single" else fused)}
            else:
                named = (entry,) if isinstance(entry, str) else entry
                inputs["|".join(named)] = tuple(map(Side.parse, named))
        if not inputs:
            raise ValueError(f"probe: the objective has no side for on={list(self.on)}: name sides, or single")
        return inputs

    def _samples(self, context: Context, split: str, sides: list[Side]) -> Samples:
        """Embed labelled samples of a split in its order, as many as are wanted of it."""
        members = dict.fromkeys(m for side in sides for m in side.members)
        examples = Examples.of(context.data.split(split), Side.joining(tuple(members)))
        if self.label not in examples.targets:
            first, have = next(iter(members)), ", ".join(examples.targets) or "none"
            raise ValueError(f"probe: split '{split}' has no label '{self.label}' of {first}: it has {have}")
        labels = examples.targets[self.label]
        readout = readout_of(labels)
        rows = torch.randperm(len(labels), generator=generator(context.seed, "probe", split))
        if self.shots and not readout.has_shots:
            raise ValueError(
                f"probe: shots are samples of one class, and '{self.label}' is {readout.noun} of each: set limit"
            )
        rows = rows[readout.known(labels)[rows]]
        unlabelled = len(labels) - len(rows)
        if not len(rows):
            raise ValueError(
                f"probe: no item of split '{split}' has a label of '{self.label}': all are {readout.unknown}"
            )
        if self.shots and split == self.train:
            rows = torch.cat([rows[labels[rows] == c][: self.shots] for c in labels[rows].unique()])
        else:
            rows = rows[: self.limit]
        rows = rows.sort().values
        views = examples.take(rows).views(context, sides)
        z = {side: view.z[:, 0].double().numpy() for side, view in views.items()}
        return Samples(z, labels[rows].numpy(), readout, unlabelled)
