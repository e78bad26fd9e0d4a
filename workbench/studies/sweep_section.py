"""The keys of a sweep's file, and what may stand there."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from workbench.recipe.schema import as_folder
from workbench.recipe.section import Section
from workbench.recipe.yaml_text import write_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=,-]*")
"""a name of an arm, or of a value of the grid, which folders have"""


def _as_seeds(value: object) -> object:
    """Make the list of seeds of their number. Raises ValueError for what is neither a number above 0 nor a list."""
    if isinstance(value, list | tuple) and value:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10_000:
        raise ValueError("write how many seeds, as 3, or which, as [0, 1, 2]")
    return list(range(value))


def _without_repetition(seeds: tuple[int, ...]) -> tuple[int, ...]:
    twice = [str(seed) for seed, count in Counter(seeds).items() if count > 1]
    if twice:
        raise ValueError(f"seed {', '.join(twice)} is there twice, and would be one run: name each seed once")
    return seeds


def _as_arm(value: object) -> object:
    """Return overrides, none, or the name of a recipe. Raises ValueError for what is neither."""
    if value is None or isinstance(value, str | dict):
        return value
    raise ValueError("write overrides, as {objective.lambda: 0}, or the name of a recipe")


def _as_axis(value: object) -> object:
    """Name each value of a grid, where the file does not. Raises ValueError for what is no list, and no names."""
    if isinstance(value, dict):
        if wrong := [name for name in value if not NAME.fullmatch(name)]:
            raise ValueError(f"'{wrong[0]}' names folders: write letters, digits and _ . + - without a space")
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of values, or {name: value}")
    names = [_say_value(item) for item in value]
    if len(set(names)) < len(names):
        raise ValueError("a value is there twice, or two read alike: write them as {name: value}")
    return dict(zip(names, value, strict=True))


def _say_value(value: object) -> str:
    """Write a value as a part of a folder's name."""
    written = value if isinstance(value, str) else write_yaml(value, flow=True, width=1000).split("\n")[0]
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", written).strip("-") or "none"


class SweepSection(Section):
    """A sweep's file."""

    name: Annotated[str, AfterValidator(as_folder)] = Field(description="the sweep's folder is runs/NAME")
    base: str | None = Field(default=None, description="the recipe of all arms that name no other one")
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**63)], ...],
        BeforeValidator(_as_seeds),
        AfterValidator(_without_repetition),
    ] = Field(default=(0, 1, 2), description="how many seeds, or which")
    arms: dict[str, Annotated[str | dict[str, object] | None, BeforeValidator(_as_arm)]] = Field(
        default={}, description="{name: overrides, as {objective.lambda: 0}, or another recipe}"
    )
    grid: dict[str, Annotated[dict[str, object], BeforeValidator(_as_axis), Field(min_length=1)]] = Field(
        default={}, description="{key: values}, or {key: {name: value}}, times every arm"
    )
    set: dict[str, object] = Field(default={}, description="overrides of every arm, behind its own")
