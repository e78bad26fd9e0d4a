"""The rows as a CSV of one schema for every device, and as a table for people."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kernels.bench.compare import Row
from kernels.bench.providers import OURS

COLUMNS: dict[str, type] = {
    "date": str,
    "device": str,
    "torch": str,
    "triton": str,
    "threads": int,
    "load": float,
    "loss": str,
    "n": int,
    "d": int,
    "positives": int,
    "dtype": str,
    "provider": str,
    "version": str,
    "mode": str,
    "seconds": float,
    "seconds_20": float,
    "seconds_80": float,
    "repeats": int,
    "peak_mib": float,
    "floor_seconds": float,
    "matmul_tflops": float,
    "copy_gbs": float,
    "value_error": float,
    "gradient_error": float,
    "error_rows": int,
}
"""`load`: processes that wanted a core, on average over the minute before, this run's own included"""

HEADINGS = {"provider": 17, "median": 7, "20 - 80 %": 17, "x dense": 7, "MiB": 6, "floor": 5, "error": 5, "grad": 5}
"""the columns and their widths, alike in all tables; together they fit into 80 columns"""
LEGEND = (
    "x dense: times as fast as dense torch. MiB: peak memory beyond the inputs. floor: share of the lower bound,\n"
    "the products at the best rate of this run. error, grad: of the value and of the gradients, against float64."
)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Appends rows to a CSV, which is made if it is not there. Raises ValueError for a file of another schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    if not new and (found := path.read_text().splitlines()[0].split(",")) != list(COLUMNS):
        raise ValueError(f"{path} has the columns {', '.join(found)}: move it away, rows of this version have others")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def read(path: Path) -> list[Row]:
    """Reads rows from a CSV: numbers as numbers, what was not measured as None."""
    with path.open(newline="") as file:
        return [
            {k: COLUMNS[k](v) if v or COLUMNS[k] is str else None for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


Key = tuple[str, int, int, int, str, str]
"""(loss, n, d, positives, dtype, mode) of rows that one may compare"""


def workload_key(row: Row) -> Key:
    """Returns what rows of one table have in common."""
    return row["loss"], row["n"], row["d"], row["positives"], row["dtype"], row["mode"]


def cells(row: Row, dense: float | None) -> list[str]:
    """Writes a row under HEADINGS; dense: the seconds of the dense loss on this workload."""
    share = row["floor_seconds"] / row["seconds"]
    return [
        row["provider"],
        duration(row["seconds"]),
        f"{duration(row['seconds_20'])} - {duration(row['seconds_80'])}",
        f"{dense / row['seconds']:.2f} x" if dense else "",
        f"{row['peak_mib']:,.0f}",
        f"{share:.0%}",
        *(f"{row[key]:.0e}" if isinstance(row[key], float) else "" for key in ("value_error", "gradient_error")),
    ]


def heading(key: Key) -> str:
    """Writes the title of a table."""
    loss, n, d, positives, dtype, mode = key
    many = f" · {positives} positives a row" if positives > 1 else ""
    return f"{loss} · N {n:,} · D {d} · {dtype}{many} · {'forward + backward' if mode == 'full' else mode}"


def tables(rows: Sequence[Row]) -> Group:
    """Draws a table for each workload, the fastest provider first."""
    drawn: list[Text | Table] = []
    for key, same in groupby(sorted(rows, key=workload_key), key=workload_key):
        group = sorted(same, key=lambda row: row["seconds"])
        dense = next((row["seconds"] for row in group if row["provider"] == "dense"), None)
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
        for name, width in HEADINGS.items():
            table.add_column(name, justify="left" if name == "provider" else "right", no_wrap=True, min_width=width)
        for row in group:
            table.add_row(*cells(row, dense), style="green" if row["provider"] in OURS else "")
        drawn += [Text(heading(key), style="bold"), table, Text()]
    return Group(*drawn)


def duration(seconds: float) -> str:
    """Writes seconds with three digits and a unit."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            break
    value = seconds * factor
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
