"""The order in which a run's callbacks are called, and what it is for."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.build import build_parts
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine, Logs
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.callbacks import list_callbacks
from workbench.runs.folder import Run, find_checkpoint
from workbench.runs.train import train
from workbench.training import checkpoint_files
from workbench.training.metrics import Best, read

SCORES = '''
"""Yields what the file beside it says for each step, and raises where it says nothing."""
import json
from pathlib import Path

class Scores:
    def __init__(self, *, file: str):
        self.file, self.calls = Path(file), 0

    def run(self, context):
        said = json.loads(self.file.read_text())
        values = said[min(len(list(self.file.parent.glob("call-*"))), len(said) - 1)]
        (self.file.parent / f"call-{len(list(self.file.parent.glob('call-*')))}").touch()
        if isinstance(values, str):
            raise RuntimeError(values)
        yield from values.items()
'''


@pytest.fixture
def scores(tmp_path: Path) -> Any:
    """A recipe that is evaluated every 2 of 8 steps and saved every 4, by an evaluator that yields these, in turn."""
    (tmp_path / "scores.py").write_text(SCORES)

    def recipe(*said: dict[str, float] | str, **more: Any) -> Recipe:
        (tmp_path / "said.json").write_text(json.dumps(said))
        for call in tmp_path.glob("call-*"):
            call.unlink()
        evaluator = {"name": f"{tmp_path}/scores.py:Scores", "file": str(tmp_path / "said.json")}
        tree = {
            "name": "x",
            "data": {"name": "synthetic", "task": "xor", "samples": 96},
            "model": {"dim": 4, "encoders": dict.fromkeys("abc", "mlp")},
            "objective": "clip",
            "train": {"for": "8 steps", "batch": 24},
            "eval": {"every": "2 steps", "own": evaluator},
            "checkpoint": {"every": "4 steps"},
            "parallel": {"workers": 0},
            "log": {"tensorboard": False},
        }
        for key, value in more.items():
            tree[key] = {**tree[key], **value}
        return parse_recipe(tree)

    return recipe


def steps(run: Path) -> list[int]:
    return [checkpoint_files.step_of(path) for path in checkpoint_files.saved(run / "checkpoints")]


def state(run: Path, step: int) -> dict[str, Any]:
    return json.loads((run / "checkpoints" / f"step-{step}" / "state.json").read_text())


def test_all_callbacks_stand_in_one_order(scores: Any, tmp_path: Path) -> None:
    class Own(Callback): ...

    recipe = scores({"x": 1.0}, log={"tensorboard": True})
    parts, run = build_parts(recipe), Run(tmp_path / "run")
    found = list_callbacks(parts, Parallel(), run, console=True, profile=True, others=[Own()])
    assert [type(callback).__name__ for callback in found] == [
        "NaNGuard",
        "Positives",
        "Collapse",
        "BadSamples",
        "Checkpointing",
        "Evaluation",
        "BadSamplesOfEvaluations",
        "KeepBest",
        "TensorBoard",
        "Console",
        "Own",
        "Profile",
    ]
    kept_nowhere = list_callbacks(parts, Parallel(), None)
    assert [type(callback).__name__ for callback in kept_nowhere] == [
        "NaNGuard",
        "Positives",
        "Collapse",
        "BadSamples",
        "Evaluation",
        "BadSamplesOfEvaluations",
    ]


@pytest.mark.slow
def test_an_evaluation_that_fails_costs_no_step(scores: Any, tmp_path: Path) -> None:
    recipe = scores({"x": 1.0}, {"x": 1.0}, "the disk of the evaluation is gone", eval={"best": "own/x"})
    with pytest.raises(RuntimeError, match="disk of the evaluation"):
        train(recipe, tmp_path / "run")
    assert steps(tmp_path / "run") == [0, 4]
    records = read(tmp_path / "run" / "metrics.jsonl")
    assert records[-1]["step"] == 4
    assert not any(r["step"] == 4 and "eval/own/x" in r for r in records)
    # put right, it is made up for, and the whole is as if nothing had happened
    train(scores({"x": 1.0}, {"x": 1.0}, {"x": 2.0}, {"x": 0.0}, eval={"best": "own/x"}), tmp_path / "whole")
    train(scores({"x": 2.0}, {"x": 0.0}, eval={"best": "own/x"}), tmp_path / "run")
    both = [read(tmp_path / name / "metrics.jsonl") for name in ("run", "whole")]
    run, whole = ([{k: v for k, v in r.items() if not k.startswith("time/")} for r in records] for records in both)
    assert run == whole
    assert state(tmp_path / "run", 8) == state(tmp_path / "whole", 8)
    assert state(tmp_path / "run", 8)["best"] == {"metric": "own/x", "value": 2.0, "step": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "best", "kept"),
    [
        ([5.0, 1.0, 2.0, 3.0, 4.0], 0, [0, 4, 8]),  # fine-tuning that only hurts
        ([1.0, 5.0, 2.0, 3.0, 4.0], 2, [2, 4, 8]),  # at a step that is not due to be saved
        ([1.0, 2.0, 5.0, 3.0, 4.0], 4, [4, 8]),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 8, [6, 8]),  # each one was the best when it was saved
        ([float("nan"), 2.0, float("nan"), 1.0, 1.0], 2, [2, 4, 8]),
        ([3.0, 3.0, 3.0, 3.0, 3.0], 0, [0, 4, 8]),  # of equal ones the first
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_the_best_step_has_a_checkpoint_that_says_so(
    scores: Any, tmp_path: Path, values: list[float], best: int, kept: list[int], background: bool
) -> None:
    run = tmp_path / "run"
    recipe = scores(*({"x": x} for x in values), eval={"best": "own/x"}, checkpoint={"async": background})
    outcome = train(recipe, run)
    expected = {"metric": "own/x", "value": values[best // 2], "step": best}
    assert outcome.best == Best(**expected)
    assert steps(run) == kept
    assert state(run, best)["best"] == state(run, 8)["best"] == expected
    assert find_checkpoint(run, "best") == run / "checkpoints" / f"step-{best}"
    for path in checkpoint_files.saved(run / "checkpoints"):
        checkpoint_files.verify(path)


@pytest.mark.slow
def test_of_a_median_rank_the_least_is_the_best_and_min_says_so_of_any_metric(scores: Any, tmp_path: Path) -> None:
    values = [{"a_to_b_median_rank": x, "mean_recall": x, "seconds": x} for x in (36.5, 20.0, 6.0, 7.0, 8.0)]
    for metric, best in (("own/a_to_b_median_rank", 4), ("own/mean_recall", 0), ("min own/seconds", 4)):
        run = tmp_path / metric.replace("/", "-")
        outcome = train(scores(*values, eval={"best": metric}), run)
        assert outcome.best == Best(metric.removeprefix("min "), values[best // 2]["seconds"], best)


def test_another_best_metric_is_not_compared_with_the_one_before(scores: Any, tmp_path: Path) -> None:
    run, values = tmp_path / "run", [{"large": 16.6 - i, "small": 0.1 * i} for i in range(5)]
    train(scores(*values[:3], eval={"best": "own/large"}, train={"for": "4 steps"}), run)
    assert state(run, 4)["best"]["metric"] == "own/large"
    outcome = train(scores(*values[3:], eval={"best": "own/small"}), run)
    assert outcome.best == Best("own/small", values[4]["small"], 8)
    assert find_checkpoint(run, "best").name == "step-8"


def test_without_steps_the_initial_weights_are_kept(scores: Any, tmp_path: Path) -> None:
    outcome = train(scores({"x": 1.0}, train={"for": "0 steps"}), tmp_path / "run")
    assert outcome.finished
    assert steps(tmp_path / "run") == [0]


def test_a_recipe_may_change_until_a_step_was_made(scores: Any, tmp_path: Path) -> None:
    class Fails(Callback):
        def on_gradients(self, engine: Engine, logs: Logs) -> None:
            raise ValueError("not a number")

    run, good = tmp_path / "run", {"x": 1.0}
    with pytest.raises(ValueError, match="not a number"):
        train(scores(good, eval={"best": "own/x"}), run, callbacks=[Fails()])
    assert steps(run) == [0]
    train(scores(good, eval={"best": "own/x"}, train={"lr": 1e-4}), run)
    assert steps(run) == [0, 4, 8]


def test_what_is_never_a_number_is_never_the_best(scores: Any, tmp_path: Path) -> None:
    assert train(scores({"x": float("nan")}, eval={"best": "own/x"}), tmp_path / "run").best is None
