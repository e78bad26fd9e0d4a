"""`wb synth`: a line-up of objectives on a synthetic task, judged against its exact truth."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import show_progress
from workbench.cli._completion import complete_objective, complete_task

if TYPE_CHECKING:
    from synthetic.theory.truth import Truth
    from workbench.recipe.schema import Recipe
    from workbench.studies.arms import Result
    from workbench.studies.side_by_side import Progress


@click.command()
@click.option(
    "--task",
    help="A task of `wb synth --list`, or `all`: the matrix of tasks x objectives.",
    metavar="NAME",
    shell_complete=complete_task,
)
@click.option("--list", "list_tasks", is_flag=True, help="List the tasks with their truths.")
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    metavar="NAME|RECIPE",
    shell_complete=complete_objective,
    help="Repeatable, with options behind it: 'confu lambda=0 model.fusion=deep_set'; the file of a recipe; your own: "
    "path.to.module:Class. Default: clip, symile, confu, and all of them in the matrix.",
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each objective.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a recipe key for every run, as data.task.bits=4.",
)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    help="Keep the runs below this folder (resumable, with TensorBoard). The matrix always does: runs/synth-all.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once, a thread each; default: the number of cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
@click.option("--tasks", multiple=True, metavar="NAMES", help="Rows of the matrix: tasks or rows, as xor,parity.")
@click.option("--rendered", is_flag=True, help="Matrix: the tasks of pictures and words too; minutes a run.")
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="Matrix: write a line a cell.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Matrix: draw a heat map (PNG, PDF, SVG)."
)
def synth_(
    task: str | None,
    list_tasks: bool,
    objectives: tuple[str, ...],
    seeds: int,
    overrides: tuple[str, ...],
    folder: Path | None,
    jobs: int | None,
    as_json: bool,
    tasks: tuple[str, ...],
    rendered: bool,
    csv: Path | None,
    plot: Path | None,
) -> None:
    """Train objectives on a synthetic task and compare them with what is provably possible.

    Exit codes: 0 all runs are done; 1 a run failed, or nothing can be written; 2 a wrong task, objective,
    option or recipe.

    \b
    Example: wb synth --task xor --objective clip --objective confu --seeds 3
             wb synth --task all --tasks xor,parity --plot matrix.png
    """
    from workbench.errors import did_you_mean
    from workbench.recipe.component import load, names

    if list_tasks:
        return _list_tasks(as_json)
    if task is None:
        raise click.UsageError(f"say which task: --task NAME{did_you_mean('', names('task'))}")
    jobs = jobs or os.cpu_count() or 1
    if task == "all":
        from workbench.cli.synth_all import synth_all

        kept = folder or Path("runs/synth-all")
        return synth_all(
            objectives, seeds, overrides, kept, jobs, as_json, tasks=tasks, rendered=rendered, csv=csv, plot=plot
        )
    for option, given in {"tasks": tasks, "rendered": rendered, "csv": csv, "plot": plot}.items():
        if given:
            raise click.UsageError(f"--{option} belongs to the matrix: use it with --task all")
    known = names("task")
    if ":" not in task and task not in known:
        raise click.UsageError(f"no task '{task}'{did_you_mean(task, [*known, 'all'])}")
    load("task", task)
    from workbench.studies import arms

    chosen = _recipes(task, objectives, seeds, overrides)
    results, truth = _train(task, chosen, folder, jobs), arms.find_truth(chosen[0][1])
    if as_json:
        click.echo(json.dumps({"task": task, "truth": truth.as_dict(), "results": [r.as_dict() for r in results]}))
    else:
        _print_table(task, truth, results)
    return None


def _recipes(task: str, objectives: Sequence[str], seeds: int, overrides: tuple[str, ...]) -> list[tuple[str, Recipe]]:
    """Make (objective, recipe) of every run, and build each objective once before anything starts."""
    from workbench.studies import arms

    recipes = [
        (name, arms.recipe_of({"name": task}, name, seed, overrides))
        for name in dict.fromkeys(objectives) or arms.choose_default(task, overrides)
        for seed in range(seeds)
    ]
    for _, recipe in recipes:
        if recipe.seed == 0:
            arms.check(recipe)
    return recipes


def _train(task: str, recipes: list[tuple[str, Recipe]], folder: Path | None, jobs: int) -> list[Result]:
    from workbench.studies import arms

    runs = len(recipes)
    with show_progress(f"{task}: {runs} runs") as show:

        def watch(found: Sequence[Progress]) -> None:
            share = sum(run.share for run in found)
            show(share, runs, f"{share / runs:.0%}")

        # from behind: by default the dearest objective is named last, and one of its runs would train alone at the end
        results = list(arms.run(recipes[::-1], folder, jobs, watch))
    order = {name: i for i, (name, _) in enumerate(recipes)}
    return sorted(results, key=lambda r: (order[r.objective], r.seed))


def _print_table(task: str, truth: Truth, results: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    from workbench.cli._printing import print_table

    title = f"{task}: total correlation {_number(truth.total_correlation)} nats, batch {truth.batch}"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), header_style="bold underline")  # fits 80 columns
    numbers = ("accuracy±s.e.", "chance", "Bayes", "loss", "floor", "no info", "recovered")
    table.add_column("objective", no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name in dict.fromkeys(r.objective for r in results):
        table.add_row(*_row([r for r in results if r.objective == name]))
    print_table(table)
    Console().print(
        "Losses in nats on fresh samples at the training batch. floor: the exact optimum of that loss at this batch. "
        "no info: its value for a model that knows nothing. recovered: the share of the nats between the two. "
        "passed: at least 0.95 of them. blind: none. unknown: no exact optimum of this loss is known.",
        style="dim",
    )


def _row(runs: list[Result]) -> list[str]:
    def mean(name: str, digits: int = 3) -> str:
        values = [getattr(r, name) for r in runs if getattr(r, name) is not None]
        return f"{statistics.fmean(values):.{digits}f}" if values else "-"

    accuracies = [r.accuracy for r in runs]
    error = statistics.stdev(accuracies) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
    verdicts = [r.verdict for r in runs]
    summary = " · ".join(
        v if (n := verdicts.count(v)) == len(runs) else f"{v} {n}/{len(runs)}" for v in dict.fromkeys(verdicts)
    )
    spread = f"{mean('accuracy')}±{error:.3f}" if len(runs) > 1 else mean("accuracy")
    return [
        runs[0].objective, spread, mean("chance"), mean("bayes"), mean("loss"), mean("floor"),
        mean("no_information_loss"), mean("recovered"), summary,
    ]  # fmt: skip


def _list_tasks(as_json: bool) -> None:
    from rich.table import Table

    from workbench.cli._printing import print_table
    from workbench.recipe.component import load, names

    truths: dict[str, Truth] = {name: load("task", name)().truth() for name in names("task")}
    if as_json:
        click.echo(json.dumps({name: truth.as_dict() for name, truth in truths.items()}))
        return
    table = Table(title="synthetic tasks, at their default options", box=None, header_style="bold underline")
    for column in ("task", "pairwise information", "total correlation", "Bayes", "best single", "chance"):
        table.add_column(column, no_wrap=True)
    for name, truth in truths.items():
        nats = {pair: _number(value) for pair, value in truth.pairwise_information.items()}
        alike = len(set(nats.values())) == 1
        pairs = f"each {next(iter(nats.values()))}" if alike else "\n".join(f"{p} {value}" for p, value in nats.items())
        numbers = (truth.total_correlation, truth.bayes_accuracy, truth.best_single_accuracy, truth.chance)
        table.add_row(name, pairs, *map(_number, numbers))
    print_table(table)


def _number(value: float | None) -> str:
    """Write a number with three digits; `-` where it is not finite, or not known."""
    return "-" if value is None else f"{value:.3f}"
