"""A sweep while it is trained: a live table in a terminal, a line for each run that ends in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.recipe.yaml_text import write_yaml
from workbench.studies.sweep_results import ArmResult, RunResult, find_metric
from workbench.studies.sweeping import Sweeping

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

GAP = 2
"""letters between two columns"""
SHORTEST = 12
"""letters of a text that is cut, at least"""


class SweepProgress:
    """Shows a sweep on stderr; nothing where it is to be `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(file=sys.stderr, highlight=False, quiet=quiet)
        self.live: Live | None = None
        self._runs = 0
        self._ended = 0
        self._left = ""

    def __enter__(self) -> SweepProgress:
        from rich.live import Live

        if self.console.is_terminal and not self.console.quiet:
            self.live = Live(console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.live:
            self.live.stop()  # else the terminal has no cursor any more

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def watch(self, sweeping: Sweeping) -> None:
        """Show how far the sweep is."""
        if not self._runs:
            self._runs, self._ended = len(sweeping.runs), len(sweeping.results)
            done = sum(run.state == "done" for run in sweeping.results.values())
            if done or not self.live:
                self.say(f"{self._runs} runs, {done} of them done before; {sweeping.at_once} at once")
        left = sweeping.seconds_left
        self._left = "" if left is None else f", about {say_time(left)} left"
        if self.live:
            self.live.update(_table(sweeping, self._left, self.console.width))

    def on_done(self, run: RunResult) -> None:
        """Say how a run has ended; in a terminal only what went wrong, as the table has the rest."""
        self._ended += 1
        first = (run.error or "").partition("\n")[0]
        if run.state == "failed":
            self.say(f"{run.run.name} failed: {first}")
        elif not self.live:
            how = f"done in {say_time(run.seconds)}" if run.state == "done" else first
            self.say(f"{run.run.name} {how} ({self._ended} of {self._runs} runs{self._left})")


def say_time(seconds: float) -> str:
    """Write a time with its largest units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _table(sweeping: Sweeping, left: str, width: int) -> Table:
    """Draw the arms with their runs: done, running, left; a line for each, so that the table stands still."""
    states: dict[str, list[str]] = {run.arm.name: [] for run in sweeping.runs}
    for place, run in enumerate(sweeping.runs):
        result, progress = sweeping.results.get(place), sweeping.progress.get(place)
        states[run.arm.name].append(result.state if result else progress.state if progress else "waiting")
    counts = {name: _count(found) for name, found in states.items()}
    shares = [run.share for run in sweeping.progress.values()]
    before = len(sweeping.runs) - len(shares)
    metric = find_metric(sweeping.runs, list(sweeping.results.values()))
    table = table_of_arms(metric, sweeping.summarise(), counts, ("done", "running", "left"), width)
    table.caption = f"{(sum(shares) + before) / len(sweeping.runs):.0%} of {len(sweeping.runs)} runs{left}"
    return table


def _count(states: Sequence[str]) -> list[str]:
    failed = sum(state in ("failed", "differs") for state in states)
    running = sum(state in ("running", "elsewhere") for state in states)
    waiting = sum(state in ("waiting", "ended") for state in states)
    return [f"{states.count('done')}{f' ({failed} failed)' if failed else ''}", str(running), str(waiting)]


def table_of_arms(
    metric: str | None,
    arms: Mapping[str, ArmResult],
    counts: Mapping[str, Sequence[str]],
    columns: Sequence[str] = ("done",),
    width: int | None = None,
    *,
    differences: bool = True,
) -> Table:
    """Make a table of arms: runs, the headline metric at the last evaluation, in what each differs from the base.

    With a `width` each arm has one line of so many letters: names and differences are cut, and differences left out
    where hardly a word of them has room.
    """
    from rich.table import Table

    heads = ["arm", *columns, f"{metric.removeprefix('eval/')}, last" if metric else "metric"]
    rows = [[name, *counts[name], _write_value(arm)] for name, arm in arms.items()]
    differs = [describe_differences(arm) for arm in arms.values()] if differences else []
    if width:
        if _measure(heads, rows) > width and metric:
            heads[-1] = f"{metric.rpartition('/')[2]}, last"
        spare = width - _measure(heads, rows)
        if spare < 0:
            longest = max(max(len(row[0]) for row in rows) + spare, SHORTEST)
            rows = [[_cut(row[0], longest), *row[1:]] for row in rows]
        differs = [_cut(text, spare - GAP) for text in differs] if spare >= GAP + SHORTEST else []
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(heads):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    if differs:
        table.add_column("differs by")
    for place, row in enumerate(rows):
        table.add_row(*row, *differs[place : place + 1])
    return table


def _measure(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Count the letters of a line of these columns."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return sum(widths) + GAP * (len(widths) - 1)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _write_value(arm: ArmResult) -> str:
    return "-" if arm.mean is None else f"{arm.mean:.4g}" + ("" if arm.se is None else f" ± {arm.se:.2g}")


def describe_differences(arm: ArmResult) -> str:
    """Write in what an arm differs from the base, as a recipe has it."""
    return write_yaml(dict(arm.overrides), flow=True, width=10_000).strip()[1:-1] or "nothing: the base as it is"
