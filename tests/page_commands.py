"""Checks a command line of a page without executing it: the real command parses it, and what it names is there."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import click
from page_blocks import ROOT

from workbench.cli import cli
from workbench.cli.ls import singular
from workbench.errors import RecipeError
from workbench.recipe.component import KINDS, names
from workbench.recipe.schema import load_recipe
from workbench.recipe.yaml_file import find_sweep_or_claim, read_mapping
from workbench.studies.claim import read_claim
from workbench.studies.sweep import read_sweep

JUST = re.findall(r"^([\w-]+)(?: [^:\n]*)?:", (ROOT / "Justfile").read_text(encoding="utf-8"), re.MULTILINE)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
EXTRA = re.compile(r"(?:\.|multimodal-workbench)\[([\w,]+)\]")
FOLDERS = ("recipes/", "sweeps/", "claims/")
"""how the name of a shipped file begins, which has to be there"""


def check_command(words: list[str]) -> None:
    """Check a command of ours, and what another program does with ours. Raises what its parser or reader raises."""
    if words[0] == "wb":
        check_wb(words[1:])
    elif "workbench" in words and "-m" in words:  # python -m workbench, torchrun ... -m -- workbench
        check_wb(words[words.index("workbench") + 1 :])
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), f"no module {words[2]}"
    elif words[:2] == ["python", "-c"]:
        compile(words[2], "python -c", "exec")
    elif words[0] == "just":
        assert words[1] in JUST, f"the Justfile has {', '.join(JUST)}"
    elif words[0] == "pip":
        named = {extra for found in EXTRA.findall(" ".join(words)) for extra in found.split(",")}
        assert named <= EXTRAS.keys(), f"the extras are {', '.join(EXTRAS)}"


def check_wb(words: list[str]) -> None:
    """Parse the words behind `wb` by the command itself, and look for what they name."""
    command, context = cli, click.Context(cli, info_name="wb")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, words = words[0], words[1:]
        found = command.get_command(context, name)
        assert found is not None, f"no command {name}"
        command, context = found, click.Context(found, parent=context, info_name=name)
    if isinstance(command, click.Group) or {"--help", "-h"} & set(words):
        return
    try:
        given = command.make_context(context.info_name, list(words), parent=context.parent).params
    except click.BadParameter as error:
        # files of the reader's are not here, and a variable has no value
        if "does not exist" not in error.message and "$" not in error.message:
            raise
        return
    look_up(str(context.info_name), given)


def look_up(command: str, given: dict[str, object]) -> None:
    """Look for what a command names: a component, a task, a shipped file, a file of the page."""
    if command == "ls" and given["kind"]:
        singular(str(given["kind"]))
    elif command == "show" and (kind := singular(str(given["kind"]))) in KINDS:
        assert ":" in str(given["name"]) or given["name"] in names(kind), f"{kind}s are {', '.join(names(kind))}"
    elif command == "synth" and given["task"] and ":" not in str(given["task"]):
        assert given["task"] in {"all", *names("task")}, f"tasks are {', '.join(names('task'))}"
    else:
        overrides = tuple(word for word in several(given.get("overrides")) if "$" not in word)
        for key in ("recipe", "recipes", "sweep", "claim", "source", "path"):
            for name in several(given.get(key)):
                if name.endswith(".yaml") or name.startswith(FOLDERS):
                    read_if_there(name, overrides)


def several(value: object) -> list[str]:
    """List what an option or argument got, one word or more."""
    return [*map(str, value)] if isinstance(value, tuple | list) else [] if value is None else [str(value)]


def read_if_there(name: str, overrides: tuple[str, ...]) -> None:
    """Read a file of the page, or a shipped one. Raises RecipeError for what is wrong in it, or in the overrides."""
    file = Path(name)
    try:
        file = find_sweep_or_claim(name, "claims" if name.startswith("claims/") else "sweeps")
    except RecipeError:
        if name.startswith(FOLDERS):
            raise
        return  # a file of the reader's
    read_file(file.resolve(), overrides)


@cache
def read_file(file: Path, overrides: tuple[str, ...] = ()) -> None:
    """Read a whole file as what its keys say that it is: a claim, a sweep, or else a recipe. Raises RecipeError."""
    keys = read_mapping(file, "recipe")[0].keys()
    if "claim" in keys:
        read_claim(file, overrides)
    elif "arms" in keys:
        read_sweep(file, overrides)
    else:
        load_recipe(file, overrides)
