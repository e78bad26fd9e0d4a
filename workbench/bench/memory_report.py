"""What `workbench.bench.memory` measured: a table in Markdown, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from workbench.bench.panels import INK, QUIET, draw_line, dress, three_panels
from workbench.bench.rows import markdown

if TYPE_CHECKING:
    from workbench.bench.memory import Measured

COLOURS = {None: "#8250df", 512: "#0b7a6f", 2048: "#d9480f"}
HEAD = ("batch", "micro-batch", "MiB a step", "GiB of the process", "s a step", "of it the loss")


def table(rows: Sequence[Measured]) -> str:
    """A line for each point."""
    return markdown(HEAD, map(_line, rows))


def _line(row: Measured) -> list[str]:
    memory = [f"{row.step_mib:,.0f}", f"{row.process_mib / 1024:.2f}"]
    return [f"{row.batch}", f"{row.microbatch or 'none'}", *memory, f"{row.seconds:.1f}", f"{row.loss_share:.0%}"]


def plot(rows: Sequence[Measured], path: Path) -> None:
    """Memory, time and the loss's share of it against the batch; beside memory, that of one matrix of logits."""
    figure, (memory, time, share) = three_panels()
    _panel(memory, rows, "step_mib", "MiB a step, inputs included")
    _panel(time, rows, "seconds", "seconds a step, one core")
    _panel(share, rows, "loss_share", "share of it in the loss")
    for axes in (memory, time):
        axes.set_yscale("log")
    share.set_ylim(0, 1)
    batches = sorted({row.batch for row in rows})
    dense = [(2 * batch) ** 2 * 4 / 2**20 for batch in batches]
    low, high = memory.get_ylim()
    memory.plot(batches, dense, color=QUIET, lw=1, ls=":", label="one matrix of logits")
    memory.set_ylim(low, max(high, 1.3 * dense[-1]))
    memory.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, rows: Sequence[Measured], name: str, title: str) -> None:
    for microbatch in dict.fromkeys(row.microbatch for row in rows):
        points = dict(sorted((row.batch, getattr(row, name)) for row in rows if row.microbatch == microbatch))
        label = f"micro-batch {microbatch}" if microbatch else "encoded whole"
        draw_line(axes, points, COLOURS.get(microbatch, INK), label)
    batches = sorted({row.batch for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, map(str, batches))
    axes.minorticks_off()
    dress(axes, title, "contrastive batch")
