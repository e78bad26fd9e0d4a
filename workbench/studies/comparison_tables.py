"""The tables of a comparison, and how they are written: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.recipe.yaml_text import write_yaml
from workbench.studies.comparison import Comparison, Measured

CSV_HEAD = ("what", "metric", "at", "a", "b", "mean", "se", "low", "high", "n")
CONFLICTS = "not comparable, compared all the same"
LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": "$-$", "<": r"\textless{}", ">": r"\textgreater{}", "…": r"\dots{}",
}  # fmt: skip
"""{letter: how LaTeX writes it}"""


@dataclass(frozen=True)
class Table:
    """A table as text; the first column names what a row is about."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def list_tables(found: Comparison) -> list[Table]:
    """Lay out what a comparison says: values, differences, costs, in what recipes differ; empty ones are left out."""
    tables = [_tabulate_values(found), _tabulate_differences(found), _tabulate_costs(found), _tabulate_recipes(found)]
    return [table for table in tables if table.rows]


def _title(measured: Measured) -> str:
    return f"{measured.metric.name} ({measured.at}{', points' if measured.metric.points else ''})"


def _tabulate_values(found: Comparison) -> Table:
    rows = []
    for arm, runs in found.arms.items():
        counted = sorted({str(len(one.values[arm])) for one in found.measured})
        count = f"{' or '.join(counted)} of {len(runs)}"
        rows.append((arm, count, *(one.metric.write_summary(one.arms[arm]) for one in found.measured)))
    return Table("mean ± s.e. over seeds", ("arm", "seeds", *map(_title, found.measured)), tuple(rows))


def _tabulate_differences(found: Comparison) -> Table:
    rows = []
    for one in found.measured:
        for c in one.contrasts:
            d, write = c.difference, one.metric.write
            mean, se = (write(d.mean, signed=True), write(d.se)) if d else ("-", "-")
            interval = f"{write(d.low, signed=True)} … {write(d.high, signed=True)}" if d and d.se is not None else "-"
            rows.append((f"{c.a} − {c.b}", _title(one), mean, se, interval, str(len(c.seeds))))
    head = ("difference", "metric", "mean", "s.e.", "95 % interval", "seeds")
    return Table("differences within seeds", head, tuple(rows))


def _tabulate_costs(found: Comparison) -> Table:
    rows = tuple(
        (arm, write_time(cost.seconds), _number(cost.samples_per_second), write_bytes(cost.peak_bytes))
        for arm, cost in found.costs.items()
    )
    return Table("cost of a run (median)", ("arm", "time in steps", "samples/s", "peak memory"), rows)


def _tabulate_recipes(found: Comparison) -> Table:
    rows = tuple((key, *map(write_value, values.values())) for key, values in found.recipes.items())
    return Table("recipes, where they differ", ("key", *found.arms), rows)


def write_time(seconds: float) -> str:
    """Write a time as people say it: `41 s`, `12 min`, `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def write_bytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def write_value(value: object) -> str:
    """Write a value of a recipe on one line; `-` where the key is absent or null."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else write_yaml(value, width=1000, flow=True).removesuffix("...\n").strip()


def list_remarks(found: Comparison) -> Iterator[tuple[str, Sequence[str]]]:
    """List what stands beside the tables, as (heading, lines), where there are lines."""
    said = [f"{_title(one)}: {sentence}" for one in found.measured for sentence in one.sentences]
    for heading, lines in (
        ("in words", said),
        (CONFLICTS, found.conflicts),
        ("not counted", found.left_out),
        ("notes", found.notes),
    ):
        if lines:
            yield heading, lines


def write_markdown(found: Comparison) -> str:
    """Write everything as Markdown."""
    parts = []
    for table in list_tables(found):
        lines = [table.head, tuple("---" if i == 0 else "---:" for i in range(len(table.head))), *table.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts.append(f"**{table.title}**\n\n{body}\n")
    for heading, remarks in list_remarks(found):
        parts.append(f"**{heading}**\n\n" + "".join(f"- {line}\n" for line in remarks))
    return "\n".join(parts)


def write_latex(found: Comparison) -> str:
    """Write the tables of values and differences for LaTeX's booktabs, what is said in words as comments."""
    parts = []
    for table in list_tables(found)[:2]:
        columns = "l" + "r" * (len(table.head) - 1)
        head, *rows = (" & ".join(map(_escape, line)) + r" \\" for line in (table.head, *table.rows))
        body = "\n".join(rows)
        parts.append(
            f"% {table.title}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n"
            "\\end{tabular}\n"
        )
    for heading, remarks in list_remarks(found):
        parts.append(f"% {heading}\n" + "".join(f"% {line}\n" for line in remarks))
    return "\n".join(parts)


def _escape(text: str) -> str:
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text)


def write_csv(found: Comparison) -> str:
    """Write a line an arm and a line a difference, at full precision, in the metric's own unit."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for one in found.measured:
        for arm, s in one.arms.items():
            numbers = (s.mean, s.se, None, None, s.n) if s else (None, None, None, None, 0)
            writer.writerow(("arm", one.metric.name, one.at, arm, "", *numbers))
        for c in one.contrasts:
            d = c.difference
            numbers = (d.mean, d.se, d.low, d.high, d.n) if d else (None, None, None, None, 0)
            writer.writerow(("difference", one.metric.name, one.at, c.a, c.b, *numbers))
    return file.getvalue()
