"""What every command has: help whose words stay whole at any width, `--quiet`, and progress that suits the terminal.

The trap: textwrap breaks a line behind each hyphen, so `runs/synth-all` and `--bind-all` fall apart, and lines of
examples are kept as they are, which a narrow terminal then breaks wherever it ends.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

HYPHEN = "\u2011"
"""a hyphen at which textwrap does not break; it becomes a plain one before anything is printed"""
LINE_EVERY = 10.0
"""seconds between lines of progress where there is no terminal"""
QUIET = "workbench.quiet"


class Formatter(click.HelpFormatter):
    """Breaks lines of help between words only, those of examples too."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args.replace("-", HYPHEN), prefix)

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", HYPHEN))

    def write_dl(self, rows: object, col_max: int = 30, col_spacing: int = 2) -> None:
        whole = [(first, second.replace("-", HYPHEN)) for first, second in rows]  # type: ignore[attr-defined]
        super().write_dl(whole, col_max=min(col_max, self.width // 3), col_spacing=col_spacing)

    def getvalue(self) -> str:
        lines = super().getvalue().replace(HYPHEN, "-").split("\n")
        return "\n".join(part for line in lines for part in self._fold(line))

    def _fold(self, line: str) -> list[str]:
        if len(line) <= self.width:
            return [line]
        indent = len(line) - len(line.lstrip())
        first, rest = " " * indent, " " * (indent + 4)
        folder = textwrap.TextWrapper(
            self.width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
        return folder.wrap(line.strip())


class Context(click.Context):
    """The context of every command, which formats its help."""

    formatter_class = Formatter


def prepare(command: click.Command) -> click.Command:
    """Give a command, and those below it, its context and `--quiet`; once, however often it is looked up."""
    if command.context_class is not Context:
        command.context_class = Context
        if isinstance(command, click.Group):
            for each in command.commands.values():
                prepare(each)
        else:
            command.params.append(
                click.Option(
                    ["-q", "--quiet"],
                    is_flag=True,
                    expose_value=False,
                    callback=_remember,
                    help="No progress, no notes: the result and errors only.",
                )
            )
    return command


def _remember(ctx: click.Context, _: click.Parameter, quiet: bool) -> None:
    ctx.meta[QUIET] = quiet


def is_quiet() -> bool:
    """Tell whether the command that runs was asked for its result and errors only."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET))


def note(line: str) -> None:
    """Print a line for people on stderr, unless the command is to be quiet."""
    if not is_quiet():
        click.echo(line, err=True)


@contextmanager
def show_progress(doing: str) -> Iterator[Callable[..., None]]:
    """Show how far something is on stderr: a bar in a terminal, else a line every ten seconds; nothing with --quiet.

    Yields a function of (done, how many there are, what to say in the place of these two numbers).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console, spoke = Console(stderr=True, quiet=is_quiet()), time.monotonic()
    if not console.is_terminal or console.quiet:

        def log(done: float, total: float | None, said: str = "") -> None:
            nonlocal spoke
            if not console.quiet and time.monotonic() - spoke >= LINE_EVERY:
                spoke = time.monotonic()
                click.echo(f"{doing}: {said or _count(done, total)}", err=True)

        yield log
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, speed_estimate_period=120) as progress:
        bar = progress.add_task(doing, total=None, said="")

        def show(done: float, total: float | None, said: str = "") -> None:
            progress.update(bar, completed=done, total=total, said=said or _count(done, total))

        yield show


def _count(done: float, total: float | None) -> str:
    return f"{done:,.0f}" if total is None else f"{done:,.0f} of {total:,.0f}"
