"""What a claim said before its first run, kept in the sweep's folder, and what has changed since.

    FOLDER/claims/NAME.json    the claim, its arms' recipes, their digest, when it was written and what had been run

The trap: a record that is written anew with every change proves nothing. It is written once, and never again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from workbench.errors import RecipeError, RunError, writing
from workbench.recipe.schema import parse_recipe
from workbench.recipe.yaml_file import Tree
from workbench.runs.resume_rules import flatten, is_in
from workbench.studies.claim import Claim
from workbench.studies.grouping import NO_RESULT, PLACES

FOLDER = "claims"
SAME = tuple(key for key in NO_RESULT if key != "eval")
"""keys of an arm's recipe that are no part of what is registered; its evaluations are"""


@dataclass(frozen=True)
class Registration:
    """A claim as it was registered, beside what it says now."""

    digest: str
    """of what was registered"""
    time: str
    """when, as ISO 8601 in UTC"""
    runs_before: int
    """runs of its arms that had begun by then"""
    changed: tuple[str, ...]
    """a line for each key that has another value now"""

    @property
    def remarks(self) -> list[str]:
        """Say what every report of the claim has to say."""
        lines = []
        if self.runs_before:
            lines.append(
                f"registered AFTER {self.runs_before} of its runs had begun ({self.time}): it was no prediction of them"
            )
        if self.changed:
            lines.append(f"CHANGED since it was registered ({self.time}): {'; '.join(self.changed)}")
        return lines

    def as_dict(self) -> Tree:
        return {
            "digest": self.digest,
            "registered": self.time,
            "runs_before": self.runs_before,
            "changed": list(self.changed),
        }


def write_out(claim: Claim) -> Tree:
    """Write out all that a claim says, {"claim": its file, "arms": {arm: {key: value} of its recipe}}."""
    arms = {
        arm.name: {
            key: value
            for key, value in flatten(arm.recipe.as_dict()).items()
            if not is_in(key, SAME) and not is_in(key, PLACES)
        }
        for arm in claim.arms
    }
    return {"claim": claim.as_dict(), "arms": arms}


def make_digest(content: Tree) -> str:
    """Digest what is registered, whatever the order of its keys."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def register(claim: Claim, folder: Path) -> Registration:
    """Write the claim down, unless that was done; compare it with what was written.

    Raises RunError where the record was damaged, OSError where nothing can be written.
    """
    file = folder / FOLDER / f"{claim.file.stem}.json"
    if not file.exists():
        content = write_out(claim)
        before = sum(
            (run.folder / "metrics.jsonl").exists()
            for run in claim.sweep.runs(folder, claim.seeds)
            if run.arm in claim.arms
        )
        time = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"digest": make_digest(content), "registered": time, "runs_before": before, "content": content}
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.{os.getpid()}")
            draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            try:
                os.link(draft, file)  # fails where another process was first: its record counts
            except FileExistsError:
                pass
            finally:
                draft.unlink()
    return read_registration(claim, file)


def read_registration(claim: Claim, file: Path) -> Registration:
    """Read what was registered, and compare the claim with it. Raises RunError where it is no such record."""
    content = json.loads(json.dumps(write_out(claim)))
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        old, digest = record["content"], record["digest"]
        changed = tuple(_list_changes(old | {"arms": _fill_defaults(old["arms"], claim)}, content))
        found = Registration(digest, record["registered"], record["runs_before"], changed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file} is no record of a claim any more ({error}): what was registered cannot be known"
        ) from None
    if make_digest(old) != digest:
        raise RunError(f"{file}: its digest is not that of its content: it was changed after it was written")
    return found


def _fill_defaults(registered: dict[str, Tree], claim: Claim) -> dict[str, Tree]:
    """Give each arm that was registered the defaults of keys that were not there then, as a resume of its runs does.

    A setting that the program has gained since is no change of the claim; one that its recipe now gives is.
    """
    arms = dict(registered)
    for arm in claim.arms:
        tree, known = arm.recipe.as_dict(), registered.get(arm.name)
        if known is None:
            continue
        gained = {key for key in flatten(tree) if key not in known and not is_in(key, SAME) and not is_in(key, PLACES)}
        try:
            filled = flatten(parse_recipe(_leave_out(tree, gained)).as_dict())
        except RecipeError:  # one of them has no default
            continue
        arms[arm.name] = known | {key: filled[key] for key in gained if key in filled}
    return json.loads(json.dumps(arms))


def _leave_out(tree: Tree, keys: Collection[str], prefix: str = "") -> Tree:
    """Copy a tree without these leaves, and without what is empty then."""
    copy: Tree = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            if inner := _leave_out(value, keys, f"{prefix}{name}."):
                copy[name] = inner
        elif f"{prefix}{name}" not in keys:
            copy[name] = value
    return copy


def _list_changes(old: Tree, new: Tree) -> list[str]:
    before, now = flatten(old), flatten(new)
    keys = [key for key in dict.fromkeys((*before, *now)) if before.get(key) != now.get(key)]
    return [f"{key.removeprefix('claim.')} {before.get(key, 'absent')} -> {now.get(key, 'absent')}" for key in keys]
