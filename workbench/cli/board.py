"""`wb board`: TensorBoard on the runs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", default="runs", type=click.Path(path_type=Path), metavar="[DIR]")
@click.option("--port", default=6006, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@click.option("--bind-all", is_flag=True, help="Let other machines in; otherwise this one only.")
def board_(folder: Path, port: int, bind_all: bool) -> None:
    """Open TensorBoard on every run below DIR (default: runs); Ctrl-C ends it.

    Scalars in dashboards (custom scalars), pictures of what the model retrieves, the recipe, the embedding projector.

    Example: wb board runs/emoji-ito --port 6007
    """
    if next(folder.rglob("events.out.tfevents.*"), None) is None:
        what = "has no TensorBoard files" if folder.is_dir() else "is not a folder"
        raise click.ClickException(f"{folder} {what}: train something (wb pretrain RECIPE), or say where the runs are")
    url = _serve(folder, port, bind_all)
    click.echo(f"TensorBoard on {folder}: {url} (dashboards: {url}#custom_scalars). Ctrl-C ends it.")
    _wait()


def _serve(folder: Path, port: int, bind_all: bool) -> str:
    """Start the server in a thread of this process; returns its address. Raises click.ClickException."""
    import contextlib
    import io

    from tensorboard import default, program

    options = ["--logdir", str(folder), "--port", str(port), "--samples_per_plugin", "images=100,scalars=5000"]
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=["wb board", *options, *(["--bind_all"] if bind_all else [])])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # notes on its own loader, which nobody asked for
            return board.launch()
    except program.TensorBoardServerException as error:
        raise click.ClickException(f"{error.msg}; choose another port with --port (0 takes a free one)") from None


def _wait() -> None:
    import signal

    try:
        signal.pause()
    except KeyboardInterrupt:
        click.echo()
