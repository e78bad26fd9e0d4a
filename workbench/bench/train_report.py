"""What `workbench.bench.train` measured, as a table in Markdown: medians over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.bench.rows import markdown

if TYPE_CHECKING:
    from workbench.bench.train import Row

PEER = "open_clip_train"
HEAD = ("model", "batch", "precision", "program", "samples/s", f"against {PEER}", "data wait", "memory, MiB", "MFU")


def table(rows: Sequence[Row]) -> str:
    """A line for each model and program; the ratio is the median of the rounds' ratios."""
    keys = dict.fromkeys((row.model, row.program) for row in rows)
    return markdown(HEAD, (_line(rows, *key) for key in keys))


def ratio(rows: Sequence[Row], model: str, program: str) -> float | None:
    """None where there is no peer: it is one itself, or trains something else."""
    peer = {row.round: row.samples_per_second for row in rows if (row.model, row.program) == (model, PEER)}
    own = {row.round: row.samples_per_second for row in rows if (row.model, row.program) == (model, program)}
    both = own.keys() & peer.keys()
    return statistics.median(own[n] / peer[n] for n in both) if both and program == "wb pretrain" else None


def _line(rows: Sequence[Row], model: str, program: str) -> list[str]:
    same = [row for row in rows if (row.model, row.program) == (model, program)]
    first, against = same[0], ratio(rows, model, program)
    speed, waited, memory = (
        statistics.median(getattr(row, name) for row in same)
        for name in ("samples_per_second", "data_wait", "peak_mib")
    )
    mfu = [row.mfu for row in same if row.mfu is not None]
    return [
        model,
        str(first.batch),
        first.precision,
        program,
        f"{speed:.0f}",
        f"{against:.2f} x" if against else "",
        f"{waited:.1%}",
        f"{memory:.0f}",
        f"{statistics.median(mfu):.1%}" if mfu else "",
    ]
