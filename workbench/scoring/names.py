"""The metrics that evaluators yield, known before anything is trained: a misspelt `eval.best` costs no epoch."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from workbench.errors import RecipeError
from workbench.types import Evaluator, Objective


@runtime_checkable
class NamesMetrics(Protocol):
    """An evaluator that knows its names beforehand. One of your own need not; then only its first evaluation tells."""

    def names(self, objective: Objective) -> Collection[str]:
        """List every name that `run` may yield for a model of this objective."""
        ...


def refuse_unknown_metric(metric: str, evaluators: Mapping[str, Evaluator], objective: Objective) -> None:
    """Raise RecipeError where no evaluator can yield `eval.best`; `evaluators` stand under their keys in the recipe."""
    key = next((key for key in evaluators if metric.startswith(f"{key}/")), None)
    if key is None:
        known = (
            ", ".join(f"{key}/..." for key in evaluators) or "none, as the recipe has no evaluator: remove eval.best"
        )
        raise RecipeError(f"eval.best: no metric '{metric}' (there are: {known})")
    evaluator = evaluators[key]
    if not isinstance(evaluator, NamesMetrics):
        return
    names = [f"{key}/{name}" for name in evaluator.names(objective)]
    if metric not in names:
        close = difflib.get_close_matches(metric, names, n=1)
        meant = f"; did you mean '{close[0]}'?" if close else ""
        raise RecipeError(f"eval.best: no metric '{metric}' (there are: {', '.join(names)}){meant}")
