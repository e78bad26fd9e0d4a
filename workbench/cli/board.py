"""`wb board`: TensorBoard on the runs, each under its own name.

The trap: TensorBoard names a run by the folder of its event files, which is RUN/tensorboard. It is therefore shown
another folder, a temporary one of links, in which runs are called as people call them; later ones are added.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from workbench.cli._completion import complete_run

PASSED_OVER = ("checkpoints", "wandb", "profile")
"""folders of a run without event files, and with many others"""
EVERY = 5.0
"""seconds between two looks for new runs"""


@click.command()
@click.argument("folder", default="runs", type=click.Path(path_type=Path), metavar="[DIR]", shell_complete=complete_run)
@click.option("--port", default=6006, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@click.option("--bind-all", is_flag=True, help="Let other machines in; otherwise this one only.")
def board_(folder: Path, port: int, bind_all: bool) -> None:
    """Open TensorBoard on every run below DIR (default: runs), a run, or a sweep's folder or file; Ctrl-C ends it.

    Runs are named by their folders, those of a sweep ARM-seedN. Dashboards (custom scalars) begin with the metric of
    eval.best; HPARAMS sorts and filters runs by their settings; then pictures, the recipe, the embedding projector.

    Exit codes: 0 ended by Ctrl-C; 1 there is nothing to show, or the port is taken.

    \b
    Examples: wb board runs/emoji-ito --port 6007
              wb board mine.yaml
    """
    import tempfile

    folder = _find_folder(folder)
    if next(find_events(folder), None) is None:
        what = "has no TensorBoard files" if folder.is_dir() else "is not a folder"
        raise click.ClickException(f"{folder} {what}: train something (wb pretrain RECIPE), or say where the runs are")
    with tempfile.TemporaryDirectory(prefix="wb-board-") as shown:
        link_runs(folder, Path(shown))
        url = _serve(shown, port, bind_all)
        click.echo(f"TensorBoard on {folder}: {url} (dashboards: {url}#custom_scalars). Ctrl-C ends it.")
        _wait(folder, Path(shown))


def _find_folder(path: Path) -> Path:
    """Return the folder itself, or that of a sweep's file."""
    if not path.is_file():
        return path
    from workbench.studies.sweep import read_sweep

    return read_sweep(path).folder


def find_events(folder: Path) -> Iterator[tuple[str, Path]]:
    """Find the folders with event files at or below a folder, each with the name of its run."""
    seen: set[str] = set()  # a link may lead back to a folder above it
    for root, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if "recipe.yaml" not in files or name not in PASSED_OVER)
        if any("tfevents" in name for name in files):
            found = Path(root)
            run = found.parent if found.name == "tensorboard" else found
            name = run.relative_to(folder) if run.is_relative_to(folder) else Path()
            yield (str(name) if name.parts else run.resolve().name), found


def link_runs(folder: Path, shown: Path) -> None:
    """Make `shown` a folder of runs by their names, whose files are links. What is there already stays.

    Each file has a link of its own: a run may lie inside of another one's folder.
    """
    for name, events in find_events(folder):
        run = shown / name
        run.mkdir(parents=True, exist_ok=True)
        for path in events.iterdir():
            with suppress(FileExistsError):
                (run / path.name).symlink_to(path.resolve())


def _serve(folder: str, port: int, bind_all: bool) -> str:
    """Start the server in a thread of this process; returns its address. Raises click.ClickException."""
    import contextlib
    import io

    from tensorboard import default, program

    options = ["--logdir", folder, "--port", str(port), "--samples_per_plugin", "images=100,scalars=5000"]
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=["wb board", *options, *(["--bind_all"] if bind_all else [])])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # notes on its own loader, which nobody asked for
            return board.launch()
    except program.TensorBoardServerException as error:
        raise click.ClickException(f"{error.msg}; choose another port with --port (0 takes a free one)") from None


def _wait(folder: Path, shown: Path) -> None:
    """Show runs that come later, until Ctrl-C."""
    import time

    try:
        while True:
            time.sleep(EVERY)
            with suppress(OSError):  # a folder that is gone while it is read is looked at again
                link_runs(folder, shown)
    except KeyboardInterrupt:
        click.echo()
