"""How objectives grow with the number of modalities: a step's time and memory, and what is learned of M-way parity.

Every measurement has a process and a thread of its own, so that no peak is that of an earlier one. The trap: an
objective of many terms can be afforded for a few steps only, and a cell without an accuracy is not one that failed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import click
from matplotlib.axes import Axes

from workbench.bench.panels import QUIET, draw_line, dress, three_panels
from workbench.bench.rows import markdown, read, write
from workbench.scoring.verdict import PASSES

if TYPE_CHECKING:
    from workbench.recipe.schema import Recipe
    from workbench.recipe.yaml_file import Tree
    from workbench.studies import arms

COLOURS = {"symile": "#8250df", "confu_subsets": "#d9480f", "confu_chain": "#0b7a6f"}
HEAD = ("M", "objective", "terms", "ms a step", "MiB a step", "epochs", "accuracy", "recovered", "verdict")

EPOCHS = {3: 20, 4: 40, 5: 60, 6: 100, 7: 160, 8: 250}
"""{modalities: of 5120 samples, for every objective}"""
TERMS: dict[str, Callable[[int], int]] = {
    "symile": lambda m: m,
    "confu_subsets": lambda m: m * (2 ** (m - 1) - 1) - m * (m - 1) // 2,
    "confu_chain": lambda m: m - 1,
}
"""{objective: cross-entropies of B x B logits a step}"""
AFFORDABLE = 100
"""terms; with more, time and memory are measured and nothing is trained"""
WARM, TIMED = 3, 8


@dataclass(frozen=True)
class Measured:
    """A line of the CSV; None where nothing was trained."""

    objective: str
    modalities: int
    seed: int
    terms: int
    ms_per_step: float
    """median, on one thread"""
    step_mib: float
    """what the process grew by in a step, on top of weights and optimizer state"""
    epochs: int | None = None
    seconds: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    floor: float | None = None
    recovered: float | None = None
    verdict: str | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        return self.objective, self.modalities, self.seed


def measure(objective: str, modalities: int, seed: int) -> Measured:
    """Measure one objective on one number of modalities, in this process."""
    import torch

    torch.set_num_threads(1)
    terms = TERMS[objective](modalities)
    cost = _cost(_recipe(objective, modalities, seed, f"{WARM + TIMED} steps"))
    if terms > AFFORDABLE:
        return Measured(objective, modalities, seed, terms, *cost)
    epochs = EPOCHS[modalities]
    found = _learn(objective, _recipe(objective, modalities, seed, f"{epochs} epochs"))
    learned = (found.seconds, found.accuracy, found.loss, found.floor, found.recovered, found.verdict)
    return Measured(objective, modalities, seed, terms, *cost, epochs, *learned)


def measure_costs_again(row: Measured) -> Measured:
    """Return the same row with time and memory of this process, and what was learned as it was."""
    import torch

    torch.set_num_threads(1)
    ms, mib = _cost(_recipe(row.objective, row.modalities, row.seed, f"{WARM + TIMED} steps"))
    return replace(row, ms_per_step=ms, step_mib=mib)


def _recipe(objective: str, modalities: int, seed: int, span: str) -> Recipe:
    from workbench.studies import arms

    task: Tree = {"name": "parity", "modalities": modalities, "bits": 1}
    # one evaluation, at the end
    return arms.recipe_of(task, objective, seed, (f"train.for={span}", f"eval.every={span}"))


def _cost(recipe: Recipe) -> tuple[float, float]:
    """Measure milliseconds and MiB of a step."""
    from kernels.bench import resident
    from workbench.build import build_engine, build_parts
    from workbench.distributed.processes import Parallel
    from workbench.engine import Callback, Engine, Logs

    class Reset(Callback):
        base = 0

        def on_step(self, engine: Engine, logs: Logs) -> None:
            if engine.step == WARM:
                self.base = resident.reset_peak()

    engine, reset = build_engine(build_parts(recipe), Parallel()), Reset()
    engine.callbacks = [reset]  # no evaluation
    engine.fit()
    seconds = statistics.median(record["time/step"] for record in engine.metrics.records[WARM:])
    return 1e3 * seconds, (resident.peak() - reset.base) / 2**20


def _learn(objective: str, recipe: Recipe) -> arms.Result:
    """Train a recipe to its end and judge it."""
    from workbench.runs.train import train
    from workbench.studies import arms
    from workbench.studies.side_by_side import Trained

    outcome = train(recipe)
    seconds = sum(record.get("time/step", 0.0) for record in outcome.records)
    trained = Trained(outcome.records[-1], outcome.parts.objective.total_weight, seconds)
    return arms.judge(objective, recipe.seed, trained)


def measure_in_processes(
    work: Callable[..., Measured], todo: Iterable[tuple[object, ...]], jobs: int
) -> Iterator[Measured]:
    """Measure each in a process of its own, `jobs` at once, and yield results as they end."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(work, *arguments) for arguments in todo]):
            yield done.result()


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each number of modalities and objective, means over seeds."""

    def place(row: Measured) -> tuple[int, int]:
        return row.modalities, row.terms

    return markdown(HEAD, (_line(list(same)) for _, same in groupby(sorted(rows, key=place), place)))


def _line(same: Sequence[Measured]) -> list[str]:
    first, verdicts = same[0], [row.verdict for row in same if row.verdict]
    counted = " · ".join(f"{v} {verdicts.count(v)}/{len(verdicts)}" for v in dict.fromkeys(verdicts))
    cost = [f"{statistics.fmean(getattr(row, name) for row in same):.0f}" for name in ("ms_per_step", "step_mib")]
    learned = [_mean(same, "accuracy"), _mean(same, "recovered"), counted or "not trained"]
    return [str(first.modalities), first.objective, str(first.terms), *cost, str(first.epochs or "-"), *learned]


def _mean(same: Sequence[Measured], name: str) -> str:
    values = [value for row in same if (value := getattr(row, name)) is not None]
    return f"{statistics.fmean(values):.3f}" if values else "-"


def plot(rows: Sequence[Measured], path: Path) -> None:
    """Draw time, memory and what is learned against the number of modalities; where nothing was trained a line ends."""
    figure, (time, memory, learned) = three_panels()
    _panel(time, rows, "ms_per_step", "milliseconds a step, one thread")
    _panel(memory, rows, "step_mib", "MiB a step")
    _panel(learned, rows, "recovered", "share of the nats of M-way parity recovered")
    for axes in (time, memory):
        axes.set_yscale("log")
    learned.axhline(PASSES, color=QUIET, lw=1, ls=":")
    learned.annotate("passes", (3, PASSES), xytext=(0, -11), textcoords="offset points", color=QUIET, fontsize=8.5)
    learned.set_ylim(top=1.02)
    time.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, rows: Sequence[Measured], name: str, title: str) -> None:
    """Draw means as a line, seeds as dots."""
    for objective, colour in COLOURS.items():
        dots = sorted(
            (row.modalities, value)
            for row in rows
            if row.objective == objective and (value := getattr(row, name)) is not None
        )
        means = {m: statistics.fmean(value for _, value in same) for m, same in groupby(dots, lambda dot: dot[0])}
        draw_line(axes, means, colour, objective)
        axes.plot([m for m, _ in dots], [value for _, value in dots], ".", color=colour, alpha=0.45, ms=6)
    axes.set_xticks(range(3, 9))
    dress(axes, title, "modalities M")


@click.command()
@click.option("--out", default="runs/modalities.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--most", default=8, show_default=True, type=click.IntRange(3, 8), help="Modalities.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Measurements at once.")
@click.option(
    "--costs", is_flag=True, help="Then measure time and memory of all rows again, one at a time: on a free core."
)
def main(out: Path, seeds: int, most: int, jobs: int, costs: bool) -> None:
    """Measure what OUT does not have yet; print a table, write OUT and a plot. Ten minutes of a core a seed."""
    rows = {row.key: row for row in read(out, Measured)}
    wanted = [(o, m, seed) for seed in range(seeds) for m in range(3, most + 1) for o in TERMS]

    def enter(row: Measured) -> None:
        rows[row.key] = row
        write([rows[key] for key in sorted(rows)], out)  # sorted: two measurements compare line by line
        learned = row.verdict or "cost only"
        click.echo(f"{row.objective}, {row.modalities} modalities, seed {row.seed}: {learned}", err=True)

    for row in measure_in_processes(measure, [key for key in wanted if key not in rows], jobs):
        enter(row)
    for row in measure_in_processes(measure_costs_again, [(row,) for row in rows.values()], 1) if costs else ():
        enter(row)
    click.echo(table(list(rows.values())))
    plot(list(rows.values()), out.with_suffix(".png"))


if __name__ == "__main__":
    main()
