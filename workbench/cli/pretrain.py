"""`wb pretrain`: train a recipe in a run folder; the same command again resumes it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import is_quiet, note
from workbench.cli._completion import complete_recipe

if TYPE_CHECKING:
    from workbench.recipe.schema import Recipe
    from workbench.recipe.yaml_file import Tree
    from workbench.runs.train import Outcome


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as train.lr=1e-3.")
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run folder; default: runs/NAME of the recipe.",
)
@click.option(
    "--nproc",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes on this machine; with --dry, GPUs to plan for.",
)
@click.option("--fresh", is_flag=True, help="Set an earlier run of this folder aside and start anew.")
@click.option("--dry", is_flag=True, help="Cost only: fake tensors, no data read, nothing trained.")
@click.option(
    "--profile",
    is_flag=True,
    help="Time ten steps after five others, in the first process: by phase, by operation, and a trace in DIR/profile.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome (or, with --dry, the cost) as JSON on stdout.")
def pretrain_(
    recipe: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    nproc: int,
    fresh: bool,
    dry: bool,
    profile: bool,
    as_json: bool,
) -> None:
    """Train RECIPE (a file, or the name of a shipped one); resumes by itself when the run folder holds a checkpoint.

    Exit codes: 0 trained, or asked to stop (Ctrl-C, SIGTERM), and saved; 1 data, disk or numbers failed, or the
    folder is another run's; 2 the recipe or an option is wrong; 130 Ctrl-C where no step was running, or a
    second one.

    Example: wb pretrain recipes/emoji_ito.yaml --set seed=1 --run runs/ito-1
    """
    from workbench.recipe.schema import load_recipe

    if dry and profile:
        raise click.UsageError("--profile times a training, and --dry trains nothing: leave one out")
    loaded = load_recipe(recipe, overrides)
    run = folder or Path("runs") / loaded.name
    if dry:
        return _print_cost(loaded, nproc, as_json)
    if "RANK" not in os.environ:  # what can be known is said once, before any process or model is made
        refuse_hopeless(loaded, nproc, run)
    if nproc > 1 and "RANK" not in os.environ:
        from workbench.distributed.launch import launch

        raise SystemExit(launch(sys.argv[1:], nproc))
    outcome = train_here(loaded, run, fresh, profile)
    if int(os.environ.get("RANK", 0)) == 0:
        print_outcome(outcome, as_json)
    return None


def refuse_hopeless(recipe: Recipe, processes: int, run: Path) -> None:
    """Raises RecipeError where so many processes cannot share a batch, ValueError where the data is not there."""
    from workbench.runs.cost import missing_data, refuse_uneven_batch

    refuse_uneven_batch(recipe, processes)
    missing = None if (run / "DONE").exists() else missing_data(recipe)
    if missing:
        raise ValueError(missing)


def train_here(recipe: Recipe, folder: Path, fresh: bool, profile: bool = False) -> Outcome:
    """Train in this process, with what it says and its progress on stderr."""
    from workbench.distributed.processes import device
    from workbench.runs.train import train
    from workbench.training.allocator import keep_memory

    world = int(os.environ.get("WORLD_SIZE", 1))
    if int(os.environ.get("RANK", 0)) == 0:
        what = f"{world} processes" if world > 1 else "one process"
        note(f"{recipe.name}: run folder {folder}, on {device()}, {what}")
    if device().type == "cpu":
        keep_memory()
    return train(recipe, folder, fresh=fresh, say=note, console=not is_quiet(), profile=profile)


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """Print how a training ended, and its evaluations as people compare them."""
    from workbench.cli._printing import print_evaluations
    from workbench.runs.report import compare_evaluations, evaluations

    if as_json:
        facts: Tree = {"run": str(outcome.run), "step": outcome.step, "finished": outcome.finished}
        click.echo(json.dumps(facts | {"metrics": (evaluations(outcome.records) or [{}])[-1]}))
        return
    if outcome.already:
        click.echo(f"{outcome.run} is finished (step {outcome.step}); --fresh starts anew, a longer train.for goes on")
    elif not outcome.finished:
        click.echo(f"stopped at step {outcome.step} of {outcome.steps}, saved; the same command goes on from there")
    best = outcome.best.metric if outcome.best else None
    print_evaluations(compare_evaluations(outcome.records, outcome.best), best)
    click.echo(f"run folder: {outcome.run}")


def _print_cost(recipe: Recipe, processes: int, as_json: bool) -> None:
    from workbench.runs.cost import cost, missing_data
    from workbench.runs.cost_report import print_cost

    found = cost(recipe, processes)
    missing = missing_data(recipe)
    if as_json:
        click.echo(json.dumps(found.as_dict() | {"missing_data": missing}))
        return
    print_cost(recipe, found)
    if missing:
        click.echo(missing)
