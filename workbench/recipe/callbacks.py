"""Reads the block `callbacks`, whose keys name callbacks as those of `eval` name evaluators, and its short forms.

callbacks: {wandb: {project: emoji}, watch: {name: watch.py:Watch, every: 100}}
callbacks: [wandb, watch.py:Watch]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from workbench.errors import did_you_mean
from workbench.recipe.component import names
from workbench.recipe.section import make_error


def read_callbacks(value: object) -> object:
    """Return {key: block with a name} for any form of the block. Raises ValidationError with the wrong keys."""
    if value is None:
        return {}
    if isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("name"), str)):
        value = [value]
    if isinstance(value, Sequence):
        value = _by_name(value)
    if not isinstance(value, Mapping):
        return value  # pydantic says that a block was expected
    found: dict[str, object] = {}
    errors: list[InitErrorDetails] = []
    for key, item in value.items():
        try:
            found[str(key)] = _add_name(str(key), item)
        except PydanticCustomError as error:
            errors.append({"type": error, "loc": (str(key),), "input": item})
    if errors:
        raise ValidationError.from_exception_data("callbacks", errors)
    return found


def _by_name(items: Sequence[object]) -> dict[str, object]:
    """Give each item of a list the name of its component, or of its class, for a key."""
    found: dict[str, object] = {}
    for item in items:
        name = item.get("name") if isinstance(item, Mapping) else item
        if not isinstance(name, str):
            raise make_error(f"an item of this list is the name of a callback, or a block with a name (got {item!r})")
        key = name.rpartition(":")[2]
        if key in found:
            raise make_error(f"two callbacks are called '{key}': write a block in which each has a key of its own")
        found[key] = item
    return found


def _add_name(key: str, item: object) -> object:
    """Name the component of a block that leaves it to its key. Raises PydanticCustomError."""
    if item is None:
        raise make_error("null drops a callback that a parent has, and none has this one: write {} for its defaults")
    if not isinstance(item, Mapping) or "name" in item:
        return item
    if key not in names("callback"):
        guess = did_you_mean(key, names("callback"))
        raise make_error(
            f"unknown key '{key}', and no callback of this name{guess}; one of your own needs name: file.py:Class"
        )
    return {"name": key, **item}
