"""What a shell offers at Tab: kinds, names, tasks, recipes, sweeps, claims, runs and files. Nothing imports torch.

The trap: a completion that raises prints a traceback into the line that a person is typing; what cannot be listed is
offered as nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from click import Context, Parameter, UsageError
from click.shell_completion import CompletionItem

DEEPEST = 3
"""levels below runs/ at which runs are looked for: a sweep's lie in the second"""

Complete = Callable[[Context, Parameter, str], list[CompletionItem]]


def offer(listed: Callable[[Context], Iterable[str]], files: str = "") -> Complete:
    """Make a completion of what is listed, and of files (`file`) or folders (`dir`) where an argument may be one."""

    def complete(ctx: Context, _: Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            words = [CompletionItem(word) for word in listed(ctx) if word.startswith(incomplete)]
        except (OSError, ValueError, UsageError):
            words = []
        return words + ([CompletionItem(incomplete, type=files)] if files and not words else [])

    return complete


def list_tasks(_: Context) -> list[str]:
    """List the synthetic tasks, and `all`."""
    from workbench.recipe.component import names

    return [*names("task"), "all"]


def list_objectives(_: Context) -> list[str]:
    """List the objectives."""
    from workbench.recipe.component import names

    return names("objective")


def list_recipes(_: Context) -> list[str]:
    """List the shipped recipes."""
    from workbench.recipe.yaml_file import recipe_names

    return recipe_names()


def _list_shipped(folder: str) -> list[str]:
    from workbench.recipe.yaml_file import shipped_recipes

    return sorted(f"{folder}/{file.stem}" for file in (shipped_recipes() / folder).glob("*.yaml"))


def list_runs(_: Context) -> list[str]:
    """List the run folders below runs/."""
    found: list[str] = []
    for here, folders, files in os.walk("runs"):
        if "recipe.yaml" in files or len(Path(here).parts) > DEEPEST:
            found += [here] if "recipe.yaml" in files else []
            folders.clear()
    return sorted(found)


complete_file = offer(lambda _: [], "file")
complete_task = offer(list_tasks)
complete_objective = offer(list_objectives, "file")
complete_recipe = offer(list_recipes, "file")
complete_run = offer(list_runs, "dir")
complete_sweep = offer(lambda _: _list_shipped("sweeps"), "file")
complete_claim = offer(lambda _: _list_shipped("claims"), "file")
complete_recipe_or_sweep = offer(lambda ctx: [*list_recipes(ctx), *_list_shipped("sweeps")], "file")
complete_task_or_file = offer(lambda ctx: list_tasks(ctx)[:-1], "file")
