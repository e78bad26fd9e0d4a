"""The tables of docs/findings.md that are no claim's: objectives, arms of ITO, and what `wb synergy` said beforehand.

The trap: a cell's interval is that of the difference within seeds; the two means of a column, compared by their own
spread, would say less.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from workbench.studies.paired import subtract
from workbench.studies.synergy.usable import t_interval
from workbench.studies.wording import Metric

MEASURED = Path(__file__).parent / "measured"
Column = tuple[str, str, str, str]
"""what `wb compare --csv` wrote to docs/measured, its baseline, the metric, and how the table calls that"""
LINEUP: tuple[Column, ...] = (
    ("lineup", "clip", "concepts/mean_recall", "emoji, two: recall"),
    ("confu_ablation", "clip", "concepts/mean_recall_1_to_1", "emoji, three: one asks"),
    ("confu_ablation", "clip", "concepts/mean_recall_2_to_1", "emoji, three: two ask"),
    ("tux_frozen", "clip3", "test/mean_recall_1_to_1", "tux: one asks"),
    ("tux_frozen", "clip3", "test/mean_recall_2_to_1", "tux: two ask"),
)
MECHANISM: tuple[Column, ...] = tuple(
    ("ito_ablation", "alignment", metric, title)
    for metric, title in (
        ("concepts/mean_recall", "recall"),
        ("gap/l2m", "L2M"),
        ("gap/mixing", "mixing"),
        ("gap/alignment", "distance of true pairs"),
        ("gap/uniformity_text", "uniformity of texts"),
    )
)
OTHER_FIELDS = {("tux_frozen", "chain")}
"""arms whose mean is over other queries than the baseline's, as they have a field more"""
ROWS = {"xor": "xor d=3", "parity": "parity M=4", "redundancy": "redundancy joint"}
"""{task of synergy.csv: its row of matrix.csv}, where they differ"""


@dataclass(frozen=True)
class Cell:
    """What an arm came to, a share in per cent, and how far it is from the baseline within seeds."""

    mean: float
    seeds: int
    difference: float | None = None
    low: float = math.nan
    high: float = math.nan
    """of the 95 % interval, which one seed does not have"""


def read_columns(columns: Sequence[Column]) -> tuple[list[str], list[dict[str, Cell]]]:
    """Read the arms, the baseline first, and {arm: its cell} of each column. Every baseline is called as the first."""
    first = columns[0][1]
    found = [_read_column(column, first) for column in columns]
    arms = dict.fromkeys(arm for cells in found for arm in cells)
    return sorted(arms, key=lambda arm: (arm != first, arm)), found


def write_columns(head: str, columns: Sequence[Column]) -> str:
    """Write a line for each arm: its mean, and what it differs from the baseline by, within seeds."""
    arms, found = read_columns(columns)
    digits = [1 if Metric.parse(metric).points else 2 for _, _, metric, _ in columns]
    lines = [
        f"| `{arm}` | "
        + " | ".join(_write_cell(cells[arm], n) if arm in cells else "" for cells, n in zip(found, digits, strict=True))
        + " |"
        for arm in arms
    ]
    titles = " | ".join(title for *_, title in columns)
    return "\n".join([f"| {head} | {titles} |", "|---" * (1 + len(columns)) + "|", *lines])


def _write_cell(cell: Cell, digits: int) -> str:
    told = f"{cell.mean:.{digits}f}, {cell.seeds} {'seed' if cell.seeds == 1 else 'seeds'}"
    if cell.difference is None:
        return told
    interval = "" if math.isnan(cell.low) else f" ({cell.low:+.{digits}f} … {cell.high:+.{digits}f})"
    return f"{told}: {cell.difference:+.{digits}f}{interval}"


def _read_column(column: Column, first: str) -> dict[str, Cell]:
    """Read {arm: its cell} at the end of trainings, without what was not run; the baseline is called `first`."""
    name, baseline, metric, _ = column
    rows = [row for row in _read(name) if (row["metric"], row["at"]) == (metric, "last") and row["n"] != "0"]
    rows = [row for row in rows if (name, row["a"]) not in OTHER_FIELDS]
    scale, cells = 100 if Metric.parse(metric).points else 1, {}
    for row in rows:
        if row["what"] == "arm":
            cells[first if row["a"] == baseline else row["a"]] = Cell(scale * float(row["mean"]), int(row["n"]))
    for row in rows:
        if row["what"] == "difference" and row["b"] == baseline:
            told, low, high = (scale * float(row[key] or "nan") for key in ("mean", "low", "high"))
            cells[row["a"]] = replace(cells[row["a"]], difference=told, low=low, high=high)
    return cells


def write_words() -> str:
    """Write what `wb synergy` said of each set of data, beside what pairs and fused terms came to when trained."""
    head = "| data | `wb synergy`: gain in nats | its word | two ask: CLIP | ConFu | ConFu − CLIP | one asks |"
    return "\n".join([head, "|---" * 7 + "|", *_list_exact(), *_list_real()])


def _list_exact() -> Iterator[str]:
    """Give a line for each task of known truth that both CLIP and ConFu were trained on, by its first repetition."""
    cells = {(row["row"], row["objective"]): row for row in (*_read("matrix"), *_read("rendered"))}
    gains = {}
    for row in _read("synergy"):
        if row["critic"] == "gain":
            gains.setdefault(row["task"], row)
    for task, gain in sorted(gains.items()):
        found = [cells.get((ROWS.get(task, task), objective), {}).get("accuracy") for objective in ("clip", "confu")]
        if all(found):
            pairs, fused = (float(x or "nan") for x in found)
            interval = f"{float(gain['mean']):.2f} [{float(gain['low']):.2f}, {float(gain['high']):.2f}]"
            yield f"| `{task}` | {interval} | {gain['word']} | {pairs:.3f} | {fused:.3f} | {fused - pairs:+.3f} | |"


def _list_real() -> Iterator[str]:
    """Give a line for each set of real data: the word of measured/synergy_real.json, and recalls by two and by one."""
    for name, asked in json.loads((MEASURED / "synergy_real.json").read_text(encoding="utf-8")).items():
        two, one = (_compare(asked["table"], asked[metric]) for metric in ("two_ask", "one_asks"))
        gain = "{mean:.2f} [{low:.2f}, {high:.2f}]".format_map(asked["gain"])
        yield (
            f"| {name} | {gain} | {asked['word']} | {two.pairs:.3f} | {two.fused:.3f} | {two.difference} "
            f"| {one.difference} |"
        )


class Compared(NamedTuple):
    """Means of CLIP and of ConFu, and their difference within seeds with its 95 % interval, as text."""

    pairs: float
    fused: float
    difference: str


def _compare(table: str, metric: str) -> Compared:
    """Read a metric of a table of `wb compare`, or of one that has a line a seed, as real-modsum's."""
    rows = _read(table)
    if "seed" in rows[0]:
        return _compare_seeds(rows, metric)
    rows = [row for row in rows if (row["metric"], row["at"]) == (metric, "last")]
    means = {row["a"]: float(row["mean"]) for row in rows if row["what"] == "arm" and row["n"] != "0"}
    told = next(row for row in rows if row["what"] == "difference" and row["a"] == "confu")
    mean, low, high = (float(told[key]) for key in ("mean", "low", "high"))
    return Compared(means[told["b"]], means["confu"], _write_difference(mean, low, high, int(told["n"])))


def _compare_seeds(rows: list[dict[str, str]], metric: str) -> Compared:
    """Compare what validation has, seed by seed."""
    found: dict[str, dict[int, float]] = {"clip": {}, "confu": {}}
    for row in rows:
        if row["split"] == "validation" and row["objective"] in found:
            found[row["objective"]][int(row["seed"])] = float(row[metric])
    pairs, fused = found["clip"], found["confu"]
    within = subtract(fused, pairs)
    interval = t_interval(list(within.values()))
    return Compared(fmean(pairs.values()), fmean(fused.values()), _write_difference(*interval, len(within)))


def _write_difference(mean: float, low: float, high: float, seeds: int) -> str:
    return f"{mean:+.3f} ({low:+.3f} … {high:+.3f}; {seeds})"


def _read(name: str) -> list[dict[str, str]]:
    with (MEASURED / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
