"""When a run evaluates, and which evaluation it calls its best."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from small_engines import built

from workbench.callbacks.evaluation import Evaluation
from workbench.engine import Engine
from workbench.training.metrics import Best, Criterion


def evaluated(
    values: Sequence[float], every: int = 4, start: bool = True, name: str | None = "score", *, resumed: Any = (0, [])
) -> tuple[Engine, list[int]]:
    """Train to step 12 with an evaluator that gives these values in turn; returns the steps that have one.

    `resumed` is a step to go on from, and the records of the run until then.
    """
    _, engine = built()
    (engine.step, engine.metrics.earlier), rest = resumed, iter(values)

    def facts() -> Iterator[tuple[str, float]]:
        yield "other", 0.5
        yield "score", next(rest)

    engine.callbacks.append(Evaluation(facts, every, Criterion.parse(name) if name else None, start))
    engine.fit()
    return engine, [record["step"] for record in engine.metrics.records if "eval/score" in record]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "start", "steps"), [(4, True, [0, 4, 8, 12]), (5, False, [5, 10, 12]), (99, True, [0, 12])]
)
def test_the_steps_are_those_of_the_recipe_and_the_last(every: int, start: bool, steps: list[int]) -> None:
    engine, found = evaluated(range(9), every, start)
    assert found == steps
    values = [record["eval/score"] for record in engine.metrics.records if "eval/score" in record]
    assert values == list(range(len(steps)))


@pytest.mark.slow
def test_a_resumed_run_evaluates_the_step_that_it_begins_with_only_if_that_was_not_done() -> None:
    done = [{"step": 0, "eval/score": 1.0}, {"step": 4, "eval/score": 7.0}]
    engine, steps = evaluated([3, 5], resumed=(4, done))
    assert steps == [8, 12]
    assert engine.best == Best("score", 7.0, 4)
    assert evaluated(range(9), resumed=(4, done[:1]))[1] == [4, 8, 12]
    assert evaluated(range(9), resumed=(5, done))[1] == [8, 12]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "best", "step"),
    [
        ([1, 5, 3, 2], 5, 4),
        ([7, 5, 3, 2], 7, 0),
        ([1, 2, 3, 4], 4, 12),
        ([1, 5, 5, 5], 5, 4),  # of equals the first
        ([-4, -3, -2, -8], -2, 8),
    ],
)
def test_the_best_is_the_first_of_the_largest(values: list[float], best: float, step: int) -> None:
    assert evaluated(values)[0].best == Best("score", best, step)


def test_without_a_name_there_is_no_best() -> None:
    assert evaluated(range(9), name=None)[0].best is None
