"""`wb sweep`: arms times seeds of a sweep's file, trained side by side; the same command again goes on."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import is_quiet
from workbench.cli._completion import complete_sweep

if TYPE_CHECKING:
    from workbench.studies.sweep import Sweep, SweepRun
    from workbench.studies.sweep_results import Swept

WIDE = 100
"""columns of a terminal in which there is room for the differences of arms beside their numbers"""


@click.command()
@click.argument("sweep", shell_complete=complete_sweep)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key in every arm.")
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the runs; default: runs/NAME, or SWEEP itself.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs at once, which share the threads; default: one for each core or GPU, as memory allows.",
)
@click.option("--list", "listed", is_flag=True, help="List the runs with their numbers and how far each is.")
@click.option("--arm", "number", type=click.IntRange(min=0), metavar="K", help="Train the run of this number alone.")
@click.option("--dry", is_flag=True, help="Say how many runs, hours and GiB of disk it takes; train nothing.")
@click.option("--fresh", is_flag=True, help="Set aside the runs that another recipe made, and train those anew.")
@click.option("--json", "as_json", is_flag=True, help="Print arms and runs as JSON on stdout.")
def sweep_(
    sweep: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    jobs: int | None,
    listed: bool,
    number: int | None,
    dry: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    """Train the arms of SWEEP (a file, a folder that it began, or a shipped one) over its seeds.

    Each run is an ordinary run folder, DIR/ARM-seedN. What is done is kept, what was begun goes on, and a run that
    fails leaves the others alone: it is named at the end. Exit codes: 0 all are done, or it was stopped and has saved;
    1 a run failed, or was made with another recipe; 2 the sweep or a recipe is wrong.

    \b
    Examples: wb sweep sweeps/ito_ablation --dry
              wb sweep mine.yaml --jobs 2
              wb sweep mine.yaml --arm $SLURM_ARRAY_TASK_ID
    """
    from workbench.studies.sweep import read_sweep

    if sum((listed, number is not None, dry)) > 1:
        raise click.UsageError("--list, --arm and --dry are three things: choose one")
    found = read_sweep(sweep, overrides)
    runs = found.runs(folder)
    if listed:
        return _list(runs, as_json)
    if dry:
        return _plan(runs, jobs, as_json)
    if number is not None:
        return _train_one(found, runs, number, fresh, as_json)
    swept = _train(found, folder, jobs, fresh)
    if as_json:
        click.echo(json.dumps(swept.as_dict()))
    else:
        _print(found, swept)
    if swept.failed:
        sys.exit(1)
    return None


def _list(runs: Sequence[SweepRun], as_json: bool) -> None:
    from rich.table import Table

    from workbench.cli._printing import print_table
    from workbench.studies.sweeping import find_state

    rows = [
        {"number": number, "arm": run.arm.name, "seed": run.seed, "state": find_state(run)[0], "run": str(run.folder)}
        for number, run in enumerate(runs)
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("number", "arm", "seed", "state", "run"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("number", "seed") else "left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    print_table(table)


def _plan(runs: Sequence[SweepRun], jobs: int | None, as_json: bool) -> None:
    from workbench.studies.room import GIB, find_missing, plan
    from workbench.studies.sweep_results import read_result
    from workbench.studies.sweeping import find_state

    missing = find_missing(runs)
    seconds = [read_result(run, "done").seconds if find_state(run)[0] == "done" else None for run in runs]
    found = plan(runs, seconds, jobs, runs[0].folder.parent)
    if as_json:
        click.echo(json.dumps(found.as_dict() | {"missing_data": missing}))
        return
    hours = "hours that cannot be known without the data"
    if found.hours is not None:
        hours = f"about {found.hours:.1f} hours" if found.hours >= 1 else f"about {found.hours * 60:.0f} minutes"
    click.echo(f"{found.runs} runs in {runs[0].folder.parent}, {found.done} of them done; {found.at_once} at once")
    click.echo(f"{hours} on this machine, by its speed at a product of matrices and by runs that are done")
    click.echo(f"{found.disk / GIB:.1f} GiB of checkpoints, {found.free_disk / GIB:.1f} GiB free (wb runs prune thins)")
    if missing:
        click.echo(missing)


def _train_one(sweep: Sweep, runs: Sequence[SweepRun], number: int, fresh: bool, as_json: bool) -> None:
    """Train one run in this process, as `wb pretrain` would. Raises ValueError where another recipe made it."""
    from workbench.cli.pretrain import print_outcome, refuse_hopeless, train_here
    from workbench.studies.sweeping import find_state, keep_file

    if number >= len(runs):
        raise click.UsageError(f"--arm {number}: there are {len(runs)} runs, 0 to {len(runs) - 1}: wb sweep ... --list")
    run = runs[number]
    state, differs = find_state(run)
    if state == "differs" and not fresh:
        said = "".join(f"\n  {line}" for line in differs)
        raise ValueError(f"{run.folder} was made with another recipe:{said}\n--fresh sets it aside and trains it anew")
    refuse_hopeless(run.recipe, 1, run.folder)
    keep_file(sweep, run.folder.parent)
    print_outcome(train_here(run.recipe, run.folder, state == "differs"), as_json)


def _train(sweep: Sweep, folder: Path | None, jobs: int | None, fresh: bool) -> Swept:
    from workbench.studies.sweep_report import SweepProgress
    from workbench.studies.sweeping import train_sweep

    def stop(signum: int, _: object) -> None:
        os.write(2, b"\nruns finish their step, then save; once more to stop at once\n")
        raise KeyboardInterrupt

    # a scheduler sends SIGTERM, and a shell lets what it starts in the background ignore Ctrl-C
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with SweepProgress(quiet=is_quiet()) as progress:
            return train_sweep(
                sweep, folder, jobs=jobs, fresh=fresh, say=progress.say, watch=progress.watch, on_done=progress.on_done
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(sweep: Sweep, swept: Swept) -> None:
    import shutil

    from workbench.cli._printing import print_table
    from workbench.studies.sweep_report import describe_differences, table_of_arms

    done = {name: sum(run.arm == name and run.state == "done" for run in swept.runs) for name in swept.arms}
    counts = {name: [f"{number}/{len(sweep.seeds)}"] for name, number in done.items()}
    beside = not sys.stdout.isatty() or shutil.get_terminal_size().columns >= WIDE
    print_table(table_of_arms(swept.metric, swept.arms, counts, differences=beside))
    for name, arm in swept.arms.items() if not beside else ():
        click.echo(f"{name} differs by {describe_differences(arm)}")
    click.echo(f"runs: {swept.folder}/ARM-seedN")
    if stopped := [run for run in swept.runs if run.state == "stopped"]:
        click.echo(f"stopped, saved: {len(stopped)} runs are not done; the same command goes on from there")
    for run in swept.failed:
        click.echo(f"{'failed' if run.state == 'failed' else 'left out'}: {run.run.name}: {run.error}", err=True)
        log = swept.folder / "logs" / f"{run.run.name}.txt"
        if run.state == "failed" and log.is_file():
            click.echo(f"  its own words: {log}", err=True)
