"""`wb runs`: what is done to runs that are there; `wb ls run` and `wb show run` tell of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from workbench.cli._completion import complete_run


@click.group()
def runs_() -> None:
    """Thin what runs leave on the disk.

    Example: wb runs prune runs/ito --weights
    """


@runs_.command()
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), shell_complete=complete_run
)
@click.option(
    "--keep",
    type=click.Choice(("both", "best", "last")),
    default="both",
    show_default=True,
    help="Which checkpoints stay; of a run without eval.best the last.",
)
@click.option("--weights", is_flag=True, help="Of those, keep the weights alone: no training can go on from them.")
@click.option("--dry", is_flag=True, help="Say what would be freed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects on stdout.")
def prune(folders: tuple[Path, ...], keep: str, weights: bool, dry: bool, as_json: bool) -> None:
    """Remove checkpoints of the finished runs in FOLDERS and below; metrics stay, and other runs are left alone.

    Exit codes: 0 done; 1 nothing can be removed; 2 no run is there, or a wrong option.

    \b
    Example: wb runs prune runs/ito --keep best --weights --dry
    """
    from workbench.runs.thin import find_folders, thin

    wanted = ("last", "best") if keep == "both" else (keep,)
    found = [thin(path, wanted, weights=weights, dry=dry) for path in find_folders(folders)]
    if as_json:
        click.echo(json.dumps([asdict(run) | {"run": str(run.run)} for run in found]))
        return
    for run in found:
        said = f"left alone, {run.why_not}" if run.why_not else f"{run.freed / 2**20:,.1f} MiB"
        click.echo(f"{run.run}: {said}")
    freed, left = sum(run.freed for run in found), sum(run.left for run in found)
    word = "would be freed" if dry else "freed"
    click.echo(f"{freed / 2**20:,.1f} MiB {word}, {left / 2**20:,.1f} MiB of checkpoints stay")
