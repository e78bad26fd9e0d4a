"""The compile report's rows: in a terminal, as the table that is kept, and as a CSV with date and versions."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import triton
from rich.table import Table

from kernels.forecast import published
from kernels.forecast.cycles import PIPES

DIMENSIONS = 768
SHAPES = ((65536, 65536), (65536, 262144))
"""rows x columns of the forecasts"""


@dataclass(frozen=True)
class Forecast:
    """Says how long a kernel should take for a whole matrix of logits, on the GPU of its architecture."""

    gpu: str
    pipes: dict[str, float]
    """clocks of a multiprocessor that a tile takes on each part of it: kernels.forecast.cycles.PIPES"""
    cycles: float
    """that a tile takes"""
    bound: str
    seconds: tuple[tuple[float, float, float], ...]
    """likely, shortest and longest, for each of the shapes asked for"""


@dataclass(frozen=True)
class Row:
    """Holds what the compiler made of a job; `fails` says what is wrong with it, "" if nothing."""

    arch: int
    operands: str
    kernel: str
    variant: str
    tile: str
    registers: int
    stack: int
    local: int
    """loads and stores of local memory"""
    shared: int
    tensor: int
    """tensor-core instructions"""
    programs: int
    """those that fit on a multiprocessor"""
    forecast: Forecast | None
    """None where there is no GPU to forecast for, or tiles pass without a product"""
    fails: str


COMPILED = tuple(field.name for field in fields(Row) if field.name not in ("forecast", "fails"))
FORECAST = ("clocks a tile", "bound by", *(f"{rows:,} x {columns:,}" for rows, columns in SHAPES))


def write_cells(row: Row) -> list[str]:
    """Writes a row under COMPILED and FORECAST."""
    cells = [str(getattr(row, name)) for name in COMPILED]
    if row.forecast is None:
        return [*cells, *("" for _ in FORECAST)]
    f = row.forecast
    clocks = " ".join(f"{f.pipes[pipe]:.0f}" for pipe in PIPES)
    times = (f"{1e3 * likely:.1f} ms ({1e3 * low:.1f}-{1e3 * high:.1f})" for likely, low, high in f.seconds)
    return [*cells, clocks, f.bound, *times]


def write_markdown(rows: list[Row]) -> str:
    """Writes the table that is kept."""
    names = [*COMPILED, *FORECAST]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(write_cells(row))} |" for row in rows]
    return "\n".join((
        f"What Triton {triton.__version__} makes of kernels/tiles/configs.py, D = {DIMENSIONS}: "
        "`python -m kernels.tiles.report --keep`.",
        "Tile: rows x columns x depth, warps, stages, /strips. Shared memory in bytes; programs: that fit on a",
        "multiprocessor. float32 in ieee precision has no tensor-core instructions.",
        "",
        "**Times are forecasts; nothing here was measured on a GPU.** They are counted in the machine code of a tile",
        "([how](../../docs/kernels.md#forecast-without-a-gpu)): clocks a tile are those of a multiprocessor's",
        f"{', '.join(PIPES[:-1])} and {PIPES[-1]}, and the widest is what binds. A time is the ideal one",
        f"divided by {published.EFFICIENCY:.2f}, in brackets by {published.GREATEST:.2f} and {published.LEAST:.2f}. "
        "GPUs: A100 (sm_80), H100 (sm_90), B200 (sm_100).",
        "Passes in which most tiles have no product, for they hold no positives, have no forecast, nor has float32 in",
        "ieee precision on sm_80, whose machine code is not understood.",
        "", *lines, "",
    ))  # fmt: skip


def draw_table(rows: list[Row]) -> Table:
    """Draws the table for a terminal, what fails in red."""
    shown = Table(title=f"Triton {triton.__version__}, D = {DIMENSIONS}, times are forecasts", header_style="bold")
    for name in (*COMPILED, *FORECAST):
        shown.add_column(name, justify="left" if name in ("arch", "operands", "kernel", "variant", "tile") else "right")
    before = None
    for row in rows:
        if before and (before.arch, before.operands) != (row.arch, row.operands):
            shown.add_section()
        shown.add_row(*write_cells(row), style="red" if row.fails else None)
        before = row
    return shown


def write_csv(rows: list[Row], path: Path) -> None:
    """Writes the forecasts, with the date, the version of the compiler, and the factor of efficiency."""
    about = {"date": datetime.now(UTC).date().isoformat(), "triton": triton.__version__}
    about["efficiency"] = f"{published.EFFICIENCY:.3f}"
    lines = [
        about
        | {name: str(getattr(row, name)) for name in COMPILED}
        | {"d": str(DIMENSIONS), "gpu": row.forecast.gpu, "bound": row.forecast.bound}
        | {f"{pipe}_clocks": f"{clocks:.0f}" for pipe, clocks in row.forecast.pipes.items()}
        | {"clocks": f"{row.forecast.cycles:.0f}", "m": str(m), "n": str(n)}
        | dict(zip(("seconds", "shortest", "longest"), (f"{v:.4g}" for v in seconds), strict=True))
        for row in rows
        if row.forecast is not None
        for (m, n), seconds in zip(SHAPES, row.forecast.seconds, strict=True)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else [])
        writer.writeheader()
        writer.writerows(lines)
