"""What all verbs print alike: tables that are never cut, evaluations, and letters that a terminal does not have.

The trap: rich makes a table as narrow as the terminal by cutting names and numbers to `0.…`, and takes a pipe for a
terminal of 80 columns. Two rows then read the same.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PLAIN = dict(zip("±×·→≠≥≤–…†", ("+-", "x", "-", "->", "!=", ">=", "<=", "-", "...", "+"), strict=True))
"""{letter: how a terminal without it writes it}"""


def allow_any_letter() -> None:
    """Let stdout and stderr write every text: what their encoding lacks is spelt in ASCII, where it was an error."""
    codecs.register_error("workbench", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="workbench")


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in letters), error.end


def print_table(table: Table, *, wrap: bool = False) -> None:
    """Print a table whole: on a line a row in a pipe (unless it may `wrap`), never narrower than its longest words.

    Columns that are not `no_wrap` may be folded between words; everything else keeps its width.
    """
    from rich.console import Console

    console = Console(highlight=False)
    least, whole = _measure(table)
    width = max(console.width, least) if console.is_terminal or wrap else whole
    Console(width=width, highlight=False).print(table)


def _measure(what: RenderableType) -> tuple[int, int]:
    """The columns that it needs at least, and at most."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=10_000)
    found = Measurement.get(console, console.options, what)
    return found.minimum, found.maximum


def print_evaluations(columns: Mapping[str, Mapping[str, float]], headline: str | None = None, title: str = "") -> None:
    """Print a table of metrics: a column for each of `columns`, {title: {metric: value}}, and chance in brackets.

    `headline` is the metric that stands first; those that stand for an evaluator follow, then all others.
    """
    from rich.table import Table

    from workbench.training.metrics import HEADLINES

    if not columns:
        return
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    chances = find_chances(names)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    if chances:
        table.add_column("(chance)", justify="right", no_wrap=True)
    stated = set(chances.values())
    chosen = [name for name in names if name == headline or name.rpartition("/")[2] in HEADLINES]
    rest = [name for name in names if name not in stated and name not in chosen]
    last = list(columns.values())[-1]
    for section in (sorted(chosen, key=lambda name: name != headline), rest):
        for name in section:
            values = ("-" if (x := values.get(name)) is None else f"{x:.4g}" for values in columns.values())
            chance = last.get(chances.get(name, ""))
            table.add_row(name, *values, *(["" if chance is None else f"({chance:.4g})"] if chances else []))
        table.add_section()
    print_table(table)


def find_chances(names: list[str]) -> dict[str, str]:
    """Find {metric: the metric that says what chance would give}, of those that have one.

    `x_chance_r5` belongs to `x_r5`, `chance_x` to `x`, an evaluator's `chance` to its accuracies. A `majority` is a
    better guess where classes are unequal, so it belongs to the accuracy, and chance to the balanced one.
    """
    there, found = set(names), dict[str, str]()
    for name in names:
        base = name.replace("_chance_r", "_r")
        if base != name and base in there:
            found[base] = name
        evaluator, last = name.partition("/")[0], name.rpartition("/")[2]
        if (own := f"{name.rpartition('/')[0]}/chance_{last}") in there:
            found[name] = own
        majority = f"{evaluator}/majority"
        chance = majority if last == "accuracy" and majority in there else f"{evaluator}/chance"
        if last in ("accuracy", "balanced_accuracy") and chance in there:
            found[name] = chance
    return found
