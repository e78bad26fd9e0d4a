"""What the measurements of `workbench.bench` share: rows as a CSV or a table, and the name of what they ran on."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


def write(rows: Sequence[DataclassInstance], path: Path) -> None:
    """Write a line for each row (at least one), under the names of the fields, numbers to the fourth decimal place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()})


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Read the lines that `write` wrote, as this dataclass of texts and numbers; none where there is no file.

    An empty cell is None.
    """
    if not path.exists():
        return []
    parse = {"str": str, "int": int, "float": float}
    kinds = {f.name: parse[str(f.type).partition(" ")[0]] for f in fields(kind)}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [kind(**{name: kinds[name](cell) if cell else None for name, cell in line.items()}) for line in lines]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Write a table of these cells in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def device_name(device: str = "cpu") -> str:
    """Name the GPU, or the processor and how many there are of it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}"
