"""What a probe fits to labels and how its answers are rated: one class of each sample, several classes, a number.

The trap: a constant answer may look good. `base` names what the best one reaches, which stands beside every probe.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from workbench.seeds import seed_for

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

STRENGTHS = {"linear": (1e4, 1e3, 1e2, 10.0, 1.0, 0.1), "mlp": (10.0, 1.0, 0.1, 0.01)}
"""of the L2 penalty (of logistic regression, 1 / C), strongest first"""
HIDDEN = 256
"""units of the MLP's one hidden layer"""

Model = Literal["linear", "mlp"]
Features = Float64[np.ndarray, "n h"]
Labels = Shaped[np.ndarray, "n ..."]
"""numbers of classes [n], bool [n, classes], or numbers [n]"""
Labelled = tuple[Features, Labels]
"""rows of the same n samples"""


class Readout(ABC):
    """The small models of one kind of label."""

    noun: ClassVar[str]
    """what a message calls such labels"""
    unknown: ClassVar[str]
    """how a missing label is written"""
    base: ClassVar[Sequence[str]]
    """names of what `without_features` gives"""
    facts: ClassVar[Sequence[str]]
    """names of what `rate` gives"""
    has_shots: ClassVar[bool] = False

    @abstractmethod
    def known(self, labels: Tensor) -> Tensor:
        """Say of every sample whether it has a label: bool [n]."""

    @abstractmethod
    def without_features(self, train: Labels, test: Labels) -> Sequence[float]:
        """Rate the answers that need no features. Raises ValueError for training labels that leave nothing to tell."""

    @abstractmethod
    def rate(self, found: Labels, labels: Labels) -> Sequence[float]:
        """Rate the answers on test items."""

    @abstractmethod
    def merit(self, fitted: Pipeline, x: Features, labels: Labels) -> tuple[float, float]:
        """Rate a fitted model on validation items, by what decides and then by what decides among equals."""

    @abstractmethod
    def model(self, kind: Model, strength: float, random_state: int) -> BaseEstimator:
        """Make a model of standardised features; `random_state` seeds an MLP's weights and the order of its batches."""

    def fit(self, kind: Model, seed: int, train: Labelled, validation: Labelled, *, again: bool) -> Pipeline:
        """Fit the strength that does best on the validation items; `again` fits it once more on both splits."""
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # a weak penalty on separable data may not converge: it competes as it stands
            warnings.simplefilter("ignore", ConvergenceWarning)
            # of several classes, one that all training samples have, or none, gets a constant answer
            warnings.filterwarnings("ignore", "Label .* is present in all training examples")
            # numbers of which features tell nothing at all may leave the equations singular
            warnings.filterwarnings("ignore", "Ill-conditioned matrix")
            candidates = [(self._pipeline(kind, strength, seed), strength) for strength in STRENGTHS[kind]]
            chosen, strength = max(candidates, key=lambda each: self.merit(each[0].fit(*train), *validation))
            if not again:
                return chosen
            both = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
            return self._pipeline(kind, strength, seed).fit(*both)

    def _pipeline(self, kind: Model, strength: float, seed: int) -> Pipeline:
        # scikit-learn takes a second to import, which `wb check` does not pay
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), self.model(kind, strength, seed_for(seed, "probe") % 2**32))


class OneClass(Readout):
    """Logistic regression, rated by accuracy."""

    noun, unknown = "a class", "-1"
    base = ("chance", "majority")
    facts = ("accuracy", "balanced_accuracy")
    has_shots = True

    def known(self, labels: Tensor) -> Tensor:
        return labels >= 0

    def without_features(self, train: Labels, test: Labels) -> Sequence[float]:
        classes, counts = np.unique(train), np.unique(test, return_counts=True)[1]
        if len(classes) < 2:
            raise ValueError("has one class, two are needed")
        return 1 / len(classes), counts.max() / counts.sum()

    def rate(self, found: Labels, labels: Labels) -> Sequence[float]:
        hits = found == labels
        return float(hits.mean()), float(np.mean([hits[labels == c].mean() for c in set(labels)]))

    def merit(self, fitted: Pipeline, x: Features, labels: Labels) -> tuple[float, float]:
        """Rate by accuracy, then by the mean log-likelihood of the classes it knows: of two equally right models, that
        with the stronger penalty is right by a hair's breadth, and wrong after the second fit."""
        known = np.isin(labels, fitted.classes_)
        right = fitted.predict_proba(x)[known, np.searchsorted(fitted.classes_, labels[known])]
        likelihood = np.log(right + np.finfo(float).tiny).mean() if known.any() else 0.0
        return float(fitted.score(x, labels)), float(likelihood)

    def model(self, kind: Model, strength: float, random_state: int) -> BaseEstimator:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier

        if kind == "linear":
            return LogisticRegression(C=1 / strength, max_iter=1000)
        return MLPClassifier((HIDDEN,), alpha=strength, random_state=random_state)


class SeveralClasses(Readout):
    """A logistic regression for each class, or an MLP with an output for each, rated by F1."""

    noun, unknown = "several classes", "without one"
    base = ("always_weighted_f1", "always_macro_f1")
    facts = ("weighted_f1", "macro_f1")

    def known(self, labels: Tensor) -> Tensor:
        return labels.new_ones(len(labels), dtype=torch.bool)  # a sample may have none of the classes

    def without_features(self, train: Labels, test: Labels) -> Sequence[float]:
        if train.shape[1] < 2:
            raise ValueError("has one class, two are needed")
        if not (train.any(0) & ~train.all(0)).any():
            raise ValueError("has no class that some samples have and others lack")
        return self.rate(np.ones_like(test), test)

    def rate(self, found: Labels, labels: Labels) -> Sequence[float]:
        """Average the F1 of each class as scikit-learn does: 0 for a class that is neither there nor said."""
        from sklearn.metrics import f1_score

        averages = ("weighted", "macro")
        return [float(f1_score(labels, found, average=average, zero_division=0)) for average in averages]  # type: ignore[arg-type]

    def merit(self, fitted: Pipeline, x: Features, labels: Labels) -> tuple[float, float]:
        """Rate by weighted F1, then by the mean log-likelihood."""
        p = fitted.predict_proba(x)
        likelihood = np.log(np.where(labels, p, 1 - p) + np.finfo(float).tiny).mean()
        weighted, _ = self.rate(fitted.predict(x), labels)
        return weighted, float(likelihood)

    def model(self, kind: Model, strength: float, random_state: int) -> BaseEstimator:
        from sklearn.multiclass import OneVsRestClassifier

        single = OneClass().model(kind, strength, random_state)
        return OneVsRestClassifier(single) if kind == "linear" else single


class ANumber(Readout):
    """Ridge regression, rated by R2, by the mean absolute error and by Spearman's correlation."""

    noun, unknown = "a number", "missing"
    base = ("always_r2", "always_mae")
    facts = ("r2", "mae", "spearman")

    def known(self, labels: Tensor) -> Tensor:
        return ~labels.isnan()

    def without_features(self, train: Labels, test: Labels) -> Sequence[float]:
        if len(np.unique(train)) < 2:
            raise ValueError("has one number, two are needed")
        r2, _, _ = self.rate(np.full_like(test, train.mean()), test)
        return r2, float(np.abs(test - np.median(train)).mean())

    def rate(self, found: Labels, labels: Labels) -> Sequence[float]:
        """Give R2, the mean absolute error, and the correlation of the ranks: 0 where either side says one number."""
        left, spread = np.square(labels - found).sum(), np.square(labels - labels.mean()).sum()
        r2 = 1 - left / spread if spread else float(not left)
        return float(r2), float(np.abs(labels - found).mean()), _correlation(_ranks(found), _ranks(labels))

    def merit(self, fitted: Pipeline, x: Features, labels: Labels) -> tuple[float, float]:
        """Rate by the squared error."""
        return -float(np.square(labels - fitted.predict(x)).mean()), 0.0

    def model(self, kind: Model, strength: float, random_state: int) -> BaseEstimator:
        """Make a regression of standardised numbers: an MLP would take for ever to reach a year, and a penalty that
        weighs on an error in cents would not weigh on one in euros."""
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.linear_model import Ridge
        from sklearn.neural_network import MLPRegressor
        from sklearn.preprocessing import StandardScaler

        linear = kind == "linear"
        sizes = (HIDDEN,)
        model = (
            Ridge(strength)
            if linear
            else MLPRegressor(hidden_layer_sizes=sizes, alpha=strength, random_state=random_state)
        )
        return TransformedTargetRegressor(model, transformer=StandardScaler())


def _ranks(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Rank values from 1 on; equal ones share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[place]


def _correlation(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt(np.square(x).sum() * np.square(y).sum())
    return float((x * y).sum() / size) if size else 0.0


READOUTS: tuple[Readout, ...] = (OneClass(), SeveralClasses(), ANumber())


def readout_of(labels: Tensor) -> Readout:
    """Choose what reads labels: numbers of classes [n], bool [n, classes] or numbers [n]."""
    one, several, number = READOUTS
    return number if labels.is_floating_point() else several if labels.ndim == 2 else one
