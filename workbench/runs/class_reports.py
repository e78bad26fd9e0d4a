"""What an evaluation says class by class, written down: CSV files and a picture of the confusions for each table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from workbench.errors import writing
from workbench.scoring.classes import confusions, rows
from workbench.types import ClassTable


def as_json(table: ClassTable) -> dict[str, list[dict[str, str | float]]]:
    """Give a table as {classes: [{class, precision, ...}], confusions: [{class, called, count, support}]}."""
    wrong: list[dict[str, str | float]] = [
        {"class": each.true, "called": each.said, "count": each.count, "support": each.support}
        for each in confusions(table)
    ]
    return {"classes": list(rows(table)), "confusions": wrong}


def write_reports(folder: Path, tables: Mapping[str, ClassTable]) -> list[Path]:
    """Write each table as KEY.csv, and where it has answers KEY_confusions.csv and KEY.png; returns the files."""
    from workbench.figures.confusion import confusion_picture

    written: list[Path] = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            base = name.replace("/", "-")
            written.append(_write(folder / f"{base}.csv", rows(table)))
            if table.pairs is None:
                continue
            wrong = as_json(table)["confusions"]
            written.append(_write(folder / f"{base}_confusions.csv", wrong, ("class", "called", "count", "support")))
            picture = folder / f"{base}.png"
            confusion_picture(table, name).savefig(picture)
            written.append(picture)
    return written


def _write(file: Path, lines: Iterable[Mapping[str, str | float]], columns: Iterable[str] = ()) -> Path:
    lines = list(lines)
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(columns) or list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return file
