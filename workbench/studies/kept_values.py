"""The values that a verdict follows from, kept as a small table beside what was registered, to be ruled on again.

    DIR/NAME.json    the claim, its arms' recipes, their digest and when they were registered, as in the runs' folder
    DIR/NAME.csv     arm, seed, metric, at, value, missing, version, torch: a line for each run and endpoint

The trap: a table of what was counted hides what was not. A run without a value has a line, too, that says why.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from workbench.errors import RunError, writing
from workbench.studies.claim import Claim
from workbench.studies.registration import FOLDER


@dataclass(frozen=True)
class Value:
    """What one run says to one endpoint."""

    arm: str
    seed: int
    metric: str
    """without `eval/`"""
    at: str
    value: float | None
    missing: str | None
    """why there is no value"""
    version: str | None
    """of the program that trained it"""
    torch: str | None
    """its torch"""


COLUMNS = tuple(field.name for field in fields(Value))


def keep(claim: Claim, values: Sequence[Value], runs: Path, folder: Path) -> Path:
    """Write the values, and a copy of the record below `runs`, into `folder`, over what it has of this claim; return
    the table. Raises OSError where nothing can be written."""
    table = folder / f"{claim.file.stem}.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if cell is None else cell for cell in astuple(value)] for value in values)
    with writing(table):
        folder.mkdir(parents=True, exist_ok=True)
        record = runs / FOLDER / f"{claim.file.stem}.json"
        shutil.copyfile(record, folder / record.name)
        table.write_text(text.getvalue(), encoding="utf-8")
    return table


def read_kept(claim: Claim, folder: Path) -> list[Value]:
    """Read the values that were kept of a claim. Raises RunError where there are none, or for what no such file has."""
    table = folder / f"{claim.file.stem}.csv"
    try:
        rows = list(csv.reader(io.StringIO(table.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(
            f"{table} cannot be read ({error}): `wb claim {claim.file.stem} --keep {folder}` writes it"
        ) from None
    if not rows or tuple(rows[0]) != COLUMNS:
        raise RunError(f"{table}: the columns are {', '.join(COLUMNS)}, as `wb claim --keep` writes them")
    known = {arm.name for arm in claim.arms}
    values = [_read_row(row, f"{table}, line {line}", known) for line, row in enumerate(rows[1:], 2)]
    keys = [(one.arm, one.seed, one.metric, one.at) for one in values]
    if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
        raise RunError(f"{table}: {' '.join(map(str, twice[0]))} is there twice: which one counts cannot be known")
    return values


def _read_row(row: Sequence[str], where: str, known: set[str]) -> Value:
    try:
        arm, seed, metric, at, value, missing, version, torch = row
        found = Value(
            arm, int(seed), metric, at, float(value) if value else None, missing or None, version or None, torch or None
        )
    except ValueError as error:
        raise RunError(f"{where}: {error}") from None
    if arm not in known:
        raise RunError(f"{where}: the claim has no arm '{arm}' (it has {', '.join(sorted(known))})")
    if (found.value is None) == (found.missing is None) or not math.isfinite(found.value or 0.0):
        raise RunError(f"{where}: a line has a finite value, or says why it is missing")
    return found
