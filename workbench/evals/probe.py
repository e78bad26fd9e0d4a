"""Probes: a small classifier on frozen embeddings, of single sides, fused ones and several put together.

The trap: what a probe reads out may be the classifier's work. Its strength is chosen on a validation split, never on
the test items, and every input is probed on the same samples; read the accuracy beside `majority`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from pydantic import PositiveInt

from workbench.scoring.examples import Examples, classes_of_each
from workbench.scoring.sides import refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.seeds import generator, seed_for
from workbench.types import Context, Data, Objective, Side

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

__all__ = ["Probe"]

STRENGTHS = {"linear": (1e4, 1e3, 1e2, 10.0, 1.0, 0.1), "mlp": (10.0, 1.0, 0.1, 0.01)}
"""of the L2 penalty (of logistic regression, 1 / C), strongest first"""
Labels = Int64[np.ndarray, " n"] | Bool[np.ndarray, "n c"]
"""a class of each sample, or which of the classes it has"""
HIDDEN = 256
"""units of the MLP's one hidden layer"""


class Samples(NamedTuple):
    """Embeddings of the same n samples, by side, and their labels."""

    z: dict[Side, Float64[np.ndarray, "n d"]]
    labels: Labels

    def features(self, sides: Sequence[Side]) -> Float64[np.ndarray, "n h"]:
        """Concatenate the embeddings of these sides."""
        return np.concatenate([self.z[side] for side in sides], axis=1)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Accuracy or F1 of a classifier of a label on test items, for each input: `image/accuracy`, `image+text/accuracy`.

    Features are standardised. The strength of the L2 penalty that does best on the validation split (of equals, the
    likeliest) is fitted again on both splits together; with `shots`, on the shots alone. All inputs are read from the
    same samples: the items of the first modality, each with the first item of its id of the others. Yields `chance`
    (1 / classes) and `majority` (share of the commonest test class), then `{input}/accuracy` and
    `{input}/balanced_accuracy` (mean recall of the classes present). Items labelled -1 are left out.

    Of a label with several classes (`many: true`) each has a classifier of its own, and the strength is that of the
    best weighted F1. Yields `{input}/weighted_f1` (mean over classes, by their test items) and `{input}/macro_f1`
    (plain mean), and before them `always_weighted_f1` and `always_macro_f1`, of saying every class of every item:
    no constant answer does better.

    Args:
        kind: `linear`, logistic regression by L-BFGS, or `mlp`, one hidden layer of 256 units by Adam
        label: which target, as the data set names it
        on: inputs: a side, or a list of sides whose embeddings are concatenated; `single` stands for each modality by
            itself, `fused` for each fusion that the objective trains, `concatenated` for all single ones together
            (`concatenated_single`) and all single and fused ones together (`concatenated_all`)
        train: split that the classifier is fitted on
        validation: split that chooses the strength
        split: split that is reported
        shots: so many training samples of each class, drawn by the run's seed; default: all. Not of `many` classes
        limit: samples of a split, at most, drawn by the run's seed; shots are not limited

    Raises ValueError when a split lacks the label or a side, there is no input, or training has a single class, or
    none of several that some samples have and others lack.
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
                    f"{a} and {b} are both '{splits[a]}': what a classifier is fitted on, what chooses its strength "
                    "and what is reported have to be different splits"
                )

    def check(self, objective: Objective, data: Data) -> None:
        for sides in self._inputs(objective).values():
            refuse_untrained(objective, *sides)
        refuse_missing_splits(data, self.train, self.validation, self.split)
        refuse_missing_label(data, self.label)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield; which of them depends on the label."""
        facts = ("accuracy", "balanced_accuracy", "weighted_f1", "macro_f1")
        base = ("chance", "majority", "always_weighted_f1", "always_macro_f1")
        return [*base, *(f"{name}/{fact}" for name in self._inputs(objective) for fact in facts)]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        inputs = self._inputs(context.objective)
        sides = list(dict.fromkeys(side for concatenated in inputs.values() for side in concatenated))
        train, validation, test = (self._samples(context, s, sides) for s in (self.train, self.validation, self.split))
        yield from self._without_features(train.labels, test.labels)
        for name, concatenated in inputs.items():
            classifier = self._fit(context.seed, concatenated, train, validation)
            found = classifier.predict(test.features(concatenated))
            for fact, value in (_accuracies if test.labels.ndim == 1 else _f1)(found, test.labels):
                yield f"{name}/{fact}", value

    def _without_features(self, train: Labels, test: Labels) -> Iterator[tuple[str, float]]:
        """Rate the answers that need no features. Raises ValueError for training labels that leave nothing to tell."""
        if train.ndim == 2:
            if train.shape[1] < 2:
                raise ValueError(f"probe: label '{self.label}' has one class, two are needed")
            if not (train.any(0) & ~train.all(0)).any():
                raise ValueError(
                    f"probe: split '{self.train}' has no class of '{self.label}' that some samples have and others lack"
                )
            for fact, value in _f1(np.ones_like(test), test):
                yield f"always_{fact}", value
            return
        classes, counts = np.unique(train), np.unique(test, return_counts=True)[1]
        if len(classes) < 2:
            raise ValueError(f"probe: split '{self.train}' has one class of '{self.label}', two are needed")
        yield "chance", 1 / len(classes)
        yield "majority", counts.max() / counts.sum()

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
        labels = classes_of_each(examples.targets[self.label], self.label)
        rows = torch.randperm(len(labels), generator=generator(context.seed, "probe", split))
        if labels.ndim == 2 and self.shots:
            raise ValueError(
                f"probe: shots are samples of one class, and '{self.label}' has several of each: set limit"
            )
        rows = rows if labels.ndim == 2 else rows[labels[rows] >= 0]
        if not len(rows):
            raise ValueError(f"probe: no item of split '{split}' has a label of '{self.label}': all are -1")
        if self.shots and split == self.train:
            rows = torch.cat([rows[labels[rows] == c][: self.shots] for c in labels[rows].unique()])
        else:
            rows = rows[: self.limit]
        rows = rows.sort().values
        views = examples.take(rows).views(context, sides)
        return Samples({side: view.z[:, 0].double().numpy() for side, view in views.items()}, labels[rows].numpy())

    def _fit(self, seed: int, sides: tuple[Side, ...], train: Samples, validation: Samples) -> Pipeline:
        from sklearn.exceptions import ConvergenceWarning

        x, x_new = train.features(sides), validation.features(sides)
        many = train.labels.ndim == 2
        candidates = [(strength, self._classifier(strength, seed, many)) for strength in STRENGTHS[self.kind]]
        with warnings.catch_warnings():
            # a weak penalty on separable data may not converge: it competes as it stands
            warnings.simplefilter("ignore", ConvergenceWarning)
            # of several classes, one that all training samples have, or none, gets a constant answer
            warnings.filterwarnings("ignore", "Label .* is present in all training examples")
            strength, chosen = max(
                candidates, key=lambda candidate: _merit(candidate[1].fit(x, train.labels), x_new, validation.labels)
            )
            if self.shots:
                return chosen
            both = np.concatenate([x, x_new]), np.concatenate([train.labels, validation.labels])
            return self._classifier(strength, seed, many).fit(*both)

    def _classifier(self, strength: float, seed: int, many: bool) -> Pipeline:
        # scikit-learn takes a second to import, which `wb check` does not pay
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if self.kind == "linear":
            linear = LogisticRegression(C=1 / strength, max_iter=1000)
            return make_pipeline(StandardScaler(), OneVsRestClassifier(linear) if many else linear)
        random_state = seed_for(seed, "probe") % 2**32  # the weights and the order of its batches
        return make_pipeline(StandardScaler(), MLPClassifier((HIDDEN,), alpha=strength, random_state=random_state))


def _accuracies(found: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> Iterator[tuple[str, float]]:
    hits = found == labels
    yield "accuracy", float(hits.mean())
    yield "balanced_accuracy", float(np.mean([hits[labels == c].mean() for c in set(labels)]))


def _f1(found: Bool[np.ndarray, "n c"], labels: Bool[np.ndarray, "n c"]) -> Iterator[tuple[str, float]]:
    """Average the F1 of each class as scikit-learn does: 0 for a class that is neither there nor said."""
    from sklearn.metrics import f1_score

    for average in ("weighted", "macro"):
        yield f"{average}_f1", float(f1_score(labels, found, average=average, zero_division=0))  # type: ignore[arg-type]


def _merit(classifier: Pipeline, x: Float64[np.ndarray, "n h"], labels: Labels) -> tuple[float, float]:
    """Rate a classifier by its accuracy, or weighted F1, then by its mean log-likelihood of the classes it knows: of
    two equally right ones, that with the stronger penalty is right by a hair's breadth, and wrong after the second
    fit."""
    p = classifier.predict_proba(x)
    if labels.ndim == 2:
        likelihood = np.log(np.where(labels, p, 1 - p) + np.finfo(float).tiny).mean()
        return dict(_f1(classifier.predict(x), labels))["weighted_f1"], float(likelihood)
    known = np.isin(labels, classifier.classes_)
    right = p[known, np.searchsorted(classifier.classes_, labels[known])]
    likelihood = np.log(right + np.finfo(float).tiny).mean() if known.any() else 0.0
    return float(classifier.score(x, labels)), float(likelihood)
