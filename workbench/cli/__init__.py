"""The `wb` command: one verb per file, thin. Nothing here imports torch before a verb needs it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import warnings
from pathlib import Path

import click

from workbench.cli._common import Context, prepare
from workbench.cli._printing import allow_any_letter
from workbench.starting import collect_rarely, leave

VERBS = {
    "synth": "Train a line-up of objectives on a synthetic task and compare them with its exact truth.",
    "init": "Look at your data, and write a first recipe for it.",
    "pretrain": "Train a recipe; resumes by itself.",
    "sweep": "Train a recipe's arms over seeds, side by side; goes on by itself.",
    "eval": "Evaluate a run.",
    "embed": "Write the embeddings of data into a file, to train on them.",
    "search": "Find what fits a text, a picture or several fields, in one's own files.",
    "export": "Write a run for open_clip, transformers, ONNX or safetensors, verified there.",
    "compare": "Compare runs over seeds: means, paired differences, what may be said of them.",
    "claim": "Put a sentence of a paper to the test, registered before its runs.",
    "synergy": "Say whether fusing two fields helps to tell a third, before a long training.",
    "check": "Validate recipes.",
    "ls": "List components, tasks, recipes or runs.",
    "show": "Print the documentation of a component, the truth of a task, or a resolved recipe.",
    "runs": "Thin what runs leave on the disk.",
    "data": "Inspect or build data sets.",
    "board": "Open TensorBoard on the runs.",
    "doctor": "Report device, versions and kernels: what would run where.",
}
"""{verb: its line in `wb --help`}, so that help needs none of their modules"""


PRINTING = ("check", "show", "ls", "compare")
"""verbs that keep nothing, and spend their time on imports"""


class Verbs(click.Group):
    """Imports a verb when it is called; a mistake of the user's ends in one message, never in a traceback."""

    context_class = Context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return prepare(getattr(importlib.import_module(f"workbench.cli.{cmd_name}"), f"{cmd_name}_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            ctx.exit(say_stopped())
        except Exception as error:
            ctx.exit(report(error))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from workbench.errors import did_you_mean

            raise click.UsageError(f"no command '{args[0]}'{did_you_mean(args[0], VERBS)}", ctx) from None


def say_stopped() -> int:
    """Say that Ctrl-C came; returns the exit status that shells give to it."""
    click.echo("stopped: what was saved is whole, and the same command begins there, if it saves at all", err=True)
    return 130


def report(error: Exception) -> int:
    """Print one message on stderr, or hand it to the launcher of several processes. Returns the exit status: 2 for a
    recipe, 1 for everything else."""
    from workbench.distributed.launch import report_to_launcher
    from workbench.errors import explain

    status = 2 if type(error).__name__ == "RecipeError" else 1
    said = explain(error)
    if not report_to_launcher(error, said, status):
        alone = int(os.environ.get("WORLD_SIZE", 1)) == 1 or status == 2
        click.echo(f"error: {said}" if alone else f"error: rank {os.environ.get('RANK')}: {said}", err=True)
    return status


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="multimodal-workbench", prog_name="wb")
def cli() -> None:
    """Multimodal contrastive learning, from a half-minute XOR to image-text pretraining, through one engine.

    \b
    wb synth --task xor            three objectives on XOR, beside exact theory
    wb pretrain emoji_ito.yaml     ITO on real images and texts, on a laptop
    """
    refuse_foreign_kernels()


def refuse_foreign_kernels() -> None:
    """Refuse to start where another distribution's package `kernels` hides ours: it would fail later and stranger."""
    spec = importlib.util.find_spec("kernels")
    ours = Path(__file__).resolve().parents[2] / "kernels" / "__init__.py"
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != ours:
        found = spec.origin if spec else "nothing"
        raise click.ClickException(
            f"the package 'kernels' found first is {found}, not ours ({ours}): "
            "uninstall the other one (`pip uninstall kernels`), then reinstall multimodal-workbench"
        )


def leave_it_to_the_main_thread(failed: threading.ExceptHookArgs) -> None:
    """Swallow a full disk in TensorBoard's thread: it is raised again where the run writes next, and told once."""
    if os.environ.get("WB_DEBUG") or not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def main() -> None:
    """Run the command line: the entry point of the console script."""
    # OpenMP threads that spin while they wait starve data workers of the same cores: 1.5 times slower with one of them
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # every rank would be told that DistributedDataParallel looked for unused weights in vain
    if "RANK" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    collect_rarely()
    threading.excepthook = leave_it_to_the_main_thread
    allow_any_letter()
    warnings.formatwarning = format_warning
    try:
        # click ends quietly where a reader has gone: `wb ls task | head`
        cli.main(prog_name="wb", standalone_mode=True)
    except KeyboardInterrupt:  # before a verb was found, or while its last lines were written
        sys.exit(say_stopped())
    except SystemExit as end:
        if sys.argv[1:2] and sys.argv[1] in PRINTING:
            leave(end)
        raise


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Write what this program warns of as a line for people, and other packages' warnings with their place."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
