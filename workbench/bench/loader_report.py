"""What `workbench.bench.loader` measured, as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from workbench.bench.rows import markdown

if TYPE_CHECKING:
    from workbench.bench.loader import Measured

PEER = "open_clip"
HEAD = ("shards", "augment", "workers", "loader", "images/s", "/ open_clip", "each round", "ms", "/ open_clip")


def table(rows: Sequence[Measured]) -> str:
    """A line for each case and loader: images a second, the ratio to open_clip in the same round (the median, then
    each), and processor milliseconds an image with the ratio of open_clip's to them. More than 1 is better in both."""
    lines: list[tuple[str, ...]] = []
    for case, same in groupby(rows, lambda row: row.case):
        of: dict[str, list[Measured]] = {}
        for row in same:
            of.setdefault(row.loader, []).append(row)
        lines += [(case.shards, case.augment, str(case.workers), name, *_cells(of[name], of[PEER])) for name in of]
    return markdown(HEAD, lines)


def _cells(rows: Sequence[Measured], peers: Sequence[Measured]) -> tuple[str, ...]:
    ratios = [row.rate / peer.rate for row, peer in zip(rows, peers, strict=True)]
    each = " ".join(f"{ratio:.2f}" for ratio in ratios)
    ms = [(row.ms, peer.ms) for row, peer in zip(rows, peers, strict=True) if row.ms and peer.ms]
    work = (f"{median(a for a, _ in ms):.2f}", f"{median(b / a for a, b in ms):.2f}") if ms else ("-", "-")
    return f"{median(row.rate for row in rows):.0f}", f"{median(ratios):.2f}", each, *work
