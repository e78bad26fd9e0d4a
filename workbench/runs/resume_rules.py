"""Says what a resume may change in a recipe: what leaves the steps that were taken, and the next ones, as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAY_CHANGE = (
    "train.for",
    "train.schedule",
    "train.microbatch",
    "log",
    "eval",
    "callbacks",
    "checkpoint",
    "parallel",
    "data.max_bad",
)
"""what a resume may change: none of it alters a step that was already taken, or what the next ones compute, but for
roundings and, as with another number of processes, the masks of dropout. A longer `train.for` stretches the learning
rate's schedule, which is said."""
MAY_MOVE = ("data.path", "data.validation", "data.splits", "data.root")
"""what a resume may change, too, as long as the training data are the same: where they lie"""


def find_forbidden(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List the dotted keys, sorted, in which two flat recipes differ and a resume must not let them."""
    differ = (key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return sorted(k for k in differ if not (is_in(k, MAY_CHANGE) or _is_moved_code(old.get(k), new.get(k))))


def is_in(key: str, sections: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of these, or below one."""
    return any(key == section or key.startswith(section + ".") for section in sections)


def say_of_weights(keys: Iterable[str]) -> str:
    """Say that a resume needs no path to the weights that the run began with."""
    if any(is_in(key, ("model.init",)) or key.endswith(".pretrained") for key in keys):
        return " Weights that the run began with are not read again: leave their path as it was, wherever they are now."
    return ""


def _is_moved_code(old: object, new: object) -> bool:
    """Whether two names of a class of one's own differ in the place of its file only, of which the first is empty."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    before, now = (Path(name.rpartition(":")[0]) for name in (old, new))
    same = before.name == now.name and old.rpartition(":")[2] == new.rpartition(":")[2]
    return same and before.suffix == ".py" and not before.exists()


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Map the dotted key of each leaf of a tree of dicts to its value."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for key, item in tree.items() for k, v in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }
