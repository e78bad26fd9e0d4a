"""Which run folders are the seeds of one arm.

The trap: a folder's name is not what was trained. Runs are of one arm when their recipes are equal but for the seed and
for what changes no result; a name that is given to two recipes is told apart by what differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from workbench.errors import RecipeError, RunError
from workbench.runs.resume_rules import is_in
from workbench.studies.run_facts import RunFacts, read_facts
from workbench.studies.sweep import read_sweep
from workbench.studies.sweep_runs import FILE as SWEEP
from workbench.studies.sweep_runs import Sweep, find_runs

NO_RESULT = ("seed", "name", "log", "callbacks", "checkpoint", "parallel", "eval", "train.microbatch", "data.max_bad")
"""keys of a recipe that make no other arm; that evaluations are the same is looked at for all runs at once"""
PLACES = ("data.path", "data.validation", "data.splits", "data.root")
"""keys that say where data lie, not which they are"""
SEED = re.compile(r"(?P<arm>.+?)[-_.]?s(?:eed)?[-_.]?(?P<seed>\d+)")
"""the end of a folder's name that says the seed"""

Arms = dict[str, list[RunFacts]]
"""{name of the arm: its runs, by rising seed}"""


def find_run_folders(path: Path) -> list[Path]:
    """List the run folders at a path or below it; of a sweep also those that are not there yet, in its own order.

    Raises RunError where there are none, RecipeError where the path is a sweep's file that cannot be read.
    """
    if (path / "recipe.yaml").is_file():
        return [path]
    if path.is_file():
        sweep = read_sweep(path)
        return _list_runs(sweep, Path("runs") / sweep.name)
    if (path / SWEEP).is_file():
        with suppress(RecipeError):  # its base may be gone by now; the runs are there without it
            return _list_runs(read_sweep(path), path)
    found = sorted(file.parent for file in path.rglob("recipe.yaml"))
    if not found:
        raise RunError(f"{path} is no run folder, and there is none below it: wb ls runs --dir FOLDER lists them")
    return found


def _list_runs(sweep: Sweep, folder: Path) -> list[Path]:
    """List the run folders of a sweep, those of seeds too that were added later."""
    there = {seed for _, seed, _ in find_runs(folder)} if folder.is_dir() else set[int]()
    return [run.folder for run in sweep.runs(folder, sorted(there | set(sweep.seeds)))]


def group_runs(runs: Sequence[RunFacts]) -> Arms:
    """Sort runs into arms, in the order in which they were given. Raises RunError where one arm has a seed twice."""
    groups: dict[str, list[RunFacts]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    split = [part for group in groups.values() for part in _split_repeated(group)]
    names = _name_apart(split)
    return {name: sorted(group, key=lambda run: run.seed) for name, group in zip(names, split, strict=True)}


def _identity(run: RunFacts) -> str:
    kept = {k: v for k, v in run.recipe.items() if not is_in(k, NO_RESULT) and not is_in(k, PLACES)}
    return json.dumps(sorted(kept.items()), default=str)


def name_stem(run: RunFacts) -> str:
    """Take the seed off the name of a run's folder, where it says the recipe's."""
    name = run.path.resolve().name
    match = SEED.fullmatch(name)
    return match["arm"] if match and int(match["seed"]) == run.seed else name


def _split_repeated(group: list[RunFacts]) -> list[list[RunFacts]]:
    """Split runs of one recipe that have a seed twice by their names, then by their parents'. Raises RunError."""
    for key in (None, name_stem, lambda run: (name_stem(run), run.path.resolve().parent)):
        parts: dict[object, list[RunFacts]] = {}
        for run in group:
            parts.setdefault(key and key(run), []).append(run)
        if all(len({run.seed for run in part}) == len(part) for part in parts.values()):
            return list(parts.values())
    twice = next(run for run in group if sum(run.seed == other.seed for other in group) > 1)
    same = [str(run.path) for run in group if run.seed == twice.seed]
    raise RunError(
        f"{' and '.join(same)} have the same recipe and the same seed ({twice.seed}): they are no two samples of "
        "anything; name one of them"
    )


def _name_apart(groups: Sequence[Sequence[RunFacts]]) -> list[str]:
    """Name each group by its folders; where two would have one name, by their parents or by what differs."""
    names = [name_stem(group[0]) for group in groups]
    if repeated := {name for name in names if names.count(name) > 1}:
        longer = [f"{group[0].path.resolve().parent.name}/{name_stem(group[0])}" for group in groups]
        names = [long if name in repeated else name for name, long in zip(names, longer, strict=True)]
    for name in {name for name in names if names.count(name) > 1}:
        which = [index for index, other in enumerate(names) if other == name]
        differs = diff_recipes({str(index): groups[index][0] for index in which})
        for number, index in enumerate(which, 1):
            said = [f"{key}={values[str(index)]}" for key, values in differs.items() if not is_in(key, NO_RESULT)]
            names[index] = f"{name} {said[0]}" if said else f"{name} ({number})"
    return names


def diff_recipes(runs: Mapping[str, RunFacts]) -> dict[str, dict[str, object]]:
    """List the keys in which recipes differ, {key: {name: value}}, but for seed and name; None where a key is not
    there."""
    keys = list(dict.fromkeys(key for run in runs.values() for key in run.recipe))
    found = {key: {name: run.recipe.get(key) for name, run in runs.items()} for key in keys}
    own = ("seed", "name")
    return {k: values for k, values in found.items() if k not in own and len({repr(v) for v in values.values()}) > 1}


def read_runs(paths: Iterable[Path]) -> tuple[list[RunFacts], list[str]]:
    """Read the runs at paths and below them, each once; also say which could not be read, or are not begun.

    Raises RunError where none can, RecipeError where a path is a sweep's file that cannot be read.
    """
    runs, complaints = list[RunFacts](), list[str]()
    for folder in dict.fromkeys(folder for path in paths for folder in find_run_folders(path)):
        if not folder.exists():
            complaints.append(f"{folder} is not begun")
            continue
        try:
            runs.append(read_facts(folder))
        except RunError as error:
            complaints.append(str(error))
    if not runs:
        raise RunError("none of these runs can be read:\n" + "\n".join(f"  {line}" for line in complaints))
    return runs, complaints
