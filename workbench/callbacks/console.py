"""Progress for people, on stderr: a live bar in a terminal, a line every few seconds in a log file.

The trap: rich wraps at 80 columns where there is no terminal, and no search then finds a whole line; `_print` does not.
"""

import sys
import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from workbench.engine import Callback, Engine, Logs
from workbench.training.metrics import HEADLINES, Record

__all__ = ["Console"]

LINE_EVERY = 10.0
"""seconds between lines where there is no terminal"""


class Console(Callback):
    """Shows samples/s, loss, learning rate and time left; evaluations as one line each.

    Stands behind the evaluation and the saves, so that what is on the screen is also on the disk.

    Args:
        headline: names of evaluation metrics worth a line; None shows four, those that stand for an evaluator first.
    """

    def __init__(self, headline: list[str] | None = None) -> None:
        self.console = RichConsole(file=sys.stderr)
        self.headline = headline
        self.progress: Progress | None = None
        self._spoke = 0.0
        self._began, self._began_step = 0.0, 0
        self._skipped = 0

    def on_start(self, engine: Engine) -> None:
        self._began, self._began_step = time.monotonic(), engine.step
        for record in engine.metrics.records:  # the evaluation at the start came before this callback listened
            self._show_evaluation(record)
        engine.metrics.listeners.append(self._show_evaluation)
        if self.console.is_terminal and engine.parallel.rank == 0:
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.progress = Progress(*columns, console=self.console)
            self.progress.start()
            self.task = self.progress.add_task("", total=engine.steps, completed=engine.step)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        now = time.monotonic()
        if engine.parallel.rank or (now - self._spoke < (0.2 if self.progress else LINE_EVERY) and not engine.finished):
            return
        self._spoke = now
        rate = (engine.step - self._began_step) * engine.batch / max(1e-9, now - self._began)
        text = f"loss {float(logs['loss']):.4f}  lr {float(logs['lr']):.2e}  {rate:,.0f} samples/s"
        if self.progress:
            self.progress.update(self.task, completed=engine.step, description=text)
        else:
            left = (engine.steps - engine.step) * engine.batch / max(1e-9, rate)
            self._print(f"step {engine.step}/{engine.steps}  {text}  {left:,.0f} s left")

    def on_exit(self, engine: Engine) -> None:
        if self.progress:
            self.progress.stop()  # else the terminal has no cursor any more
        if self._skipped:
            self._print(f"{_samples(self._skipped)} skipped: skipped.jsonl in the run folder names them")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show_evaluation(self, record: Record) -> None:
        self._skipped = record.get("data/skipped", self._skipped)
        values = {name.removeprefix("eval/"): value for name, value in record.items() if name.startswith("eval/")}
        if not values:
            return
        chosen = self.headline or sorted(values, key=lambda name: name.rpartition("/")[2] not in HEADLINES)[:4]
        facts = "  ".join(f"{name} {values[name]:.3f}" for name in chosen if name in values)
        self._print(f"evaluation at step {record['step']}: {facts}")


def _samples(number: int) -> str:
    return "1 bad sample was" if number == 1 else f"{number} bad samples were"
