"""What people see of a run: whole lines in a file, and a terminal that has its cursor again, after an error too."""

import io
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as RichConsole

from workbench.callbacks.console import Console
from workbench.engine import Callback, Engine, Logs
from workbench.recipe.schema import parse_recipe
from workbench.runs.train import train

EVALUATOR = """
class Own:
    def run(self, context):
        for name in ('a_metric_with_a_very_long_name', 'another_metric_with_a_long_name', 'a_third_one[x]'):
            yield name, 0.5
"""


def run(folder: Path, console: Console, *others: Callback) -> None:
    (folder / "own.py").write_text(EVALUATOR)
    tree: dict[str, Any] = {"name": "x", "data": {"name": "synthetic", "task": "xor", "samples": 96}}
    tree |= {"model": {"dim": 4, "encoders": dict.fromkeys("abc", "mlp")}, "objective": "clip"}
    tree |= {"train": {"for": "4 steps", "batch": 24}, "parallel": {"workers": 0}}
    tree |= {"eval": {"own": f"{folder}/own.py:Own"}}
    train(parse_recipe(tree), callbacks=[console, *others])


def test_an_evaluation_is_one_line_in_a_file(tmp_path: Path) -> None:
    console, out = Console(), io.StringIO()
    console.console = RichConsole(file=out, width=80)
    run(tmp_path, console)
    names = ("a_metric_with_a_very_long_name", "another_metric_with_a_long_name", "a_third_one[x]")
    line = "evaluation at step 0: " + "  ".join(f"own/{name} 0.500" for name in names)
    assert line in out.getvalue().splitlines()


def test_the_metric_that_stands_for_an_evaluator_is_in_the_line_of_an_evaluation(tmp_path: Path) -> None:
    """Only the first four were, and retrieval has its mean recall last."""
    console, out = Console(), io.StringIO()
    console.console = RichConsole(file=out, width=80)
    metrics = {"eval/r/a_r1": 0.1, "eval/r/a_r5": 0.5, "eval/r/b": 0.2, "eval/r/c": 0.3, "eval/r/mean_recall": 0.25}
    console._show_evaluation({"step": 7, "samples": 70, **metrics, "eval/z/accuracy": 0.75})
    assert out.getvalue() == (
        "evaluation at step 7: r/mean_recall 0.250  z/accuracy 0.750  r/a_r1 0.100  r/a_r5 0.500\n"
    )


@pytest.mark.parametrize("fails", [False, True])
def test_a_terminal_has_its_cursor_afterwards(tmp_path: Path, fails: bool) -> None:
    class Fails(Callback):
        def on_step(self, engine: Engine, logs: Logs) -> None:
            if fails:
                raise ValueError("in the middle")

    console, out = Console(), io.StringIO()
    console.console = RichConsole(file=out, force_terminal=True, width=80)
    with pytest.raises(ValueError, match="in the middle") if fails else nullcontext():
        run(tmp_path, console, Fails())
    shown = re.findall(r"\x1b\[\?25([lh])", out.getvalue())
    assert shown[-1] == "h", shown
