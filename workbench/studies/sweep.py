"""A sweep file: one base recipe, arms that differ from it by overrides, a grid, seeds; and the runs that these make.

    name: ito
    base: emoji_ito.yaml                                  # beside this file, or a shipped one
    seeds: 3                                              # 0, 1, 2; or a list
    arms: {clip: {objective: clip}, alignment: {objective.lambda: 0}, ito: {}, confu: emoji_confu.yaml}
    grid: {train.lr: [1e-3, 2e-3]}                        # times every arm
    set: {train.for: 2 epochs}                            # in every arm, and behind its overrides

The trap: runs are compared pair by pair of one seed, so two arms must differ in what the file says and in nothing else;
arms that are equal would be compared with themselves. Both are refused here, before anything is trained.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from workbench.errors import RecipeError, did_you_mean
from workbench.recipe.schema import Recipe, parse_recipe, parse_section
from workbench.recipe.yaml_file import (
    Tree,
    fill_blank,
    find_named,
    find_sweep_or_claim,
    read_mapping,
    read_override,
    read_tree,
    recipe_names,
    remember_lines,
    set_key,
    shipped_recipes,
    split_key,
)
from workbench.recipe.yaml_text import Lines, write_yaml
from workbench.recipe.yaml_text import Path as Keys
from workbench.studies.sweep_runs import (
    FILE,
    HEADER,
    RUN,
    Arm,
    Sweep,
    SweepRun,
    find_runs,
    is_copy,
    name_run,
    replace_own,
)
from workbench.studies.sweep_section import NAME, SweepSection

__all__ = ["Arm", "Sweep", "SweepRun", "find_runs", "is_sweep", "name_run", "read_sweep"]

LONGEST = 200
"""bytes of a recipe's name, which those of a sweep, an arm and a seed make"""
OWN = ("seed", "name")
"""keys of a recipe that are each run's own"""


def read_sweep(path: str | Path, overrides: Sequence[str] = (), values: Mapping[str, object] | None = None) -> Sweep:
    """Read a sweep's file, that of its folder, or a shipped one by name; overrides win, as `key=value` or as values.

    Raises RecipeError with every mistake, where each stands, and what to write there.
    """
    file = _find(path)
    tree, lines, blank = read_mapping(file, "sweep")
    section = parse_section(SweepSection, tree, lines)
    wins = [_Override(*read_override(text), f"--set {text}", {}) for text in overrides]
    wins += [_Override(split_key(key), value, f"{key}={value!r}", {}) for key, value in (values or {}).items()]
    # a person's own file may have the name of a copy, and runs do not lie beside it
    folder = file.parent if Path(path).is_dir() and is_copy(file) else Path("runs") / section.name
    return _Reader(file, section, lines, blank, tuple(wins), folder).read()


def is_sweep(path: str | Path) -> bool:
    """Tell a sweep from a recipe by its keys. A path at which nothing is found is no sweep: the reader of recipes then
    says which recipes there are. Raises RecipeError where the file cannot be read.
    """
    try:
        file = _find(path)
    except RecipeError:
        return False
    keys = read_mapping(file, "sweep")[0].keys()
    return bool(keys & SweepSection.model_fields.keys() - Recipe.model_fields.keys()) and not keys & {"data", "train"}


def _find(path: str | Path) -> Path:
    path = Path(path)
    if (path / FILE).is_file():
        return path / FILE
    if path.is_dir():
        raise RecipeError(f"{path}: no sweep was begun here: it has no {FILE}")
    return find_sweep_or_claim(path, "sweeps")


class _Override(NamedTuple):
    """A value for a key of a recipe, and where it was written."""

    path: tuple[str, ...]
    value: object
    where: str
    below: Lines
    """where the keys of a block in the place of the value were written"""


@dataclass(frozen=True)
class _Reader:
    """Makes arms of a sweep's file; every mistake is collected."""

    file: Path
    section: SweepSection
    lines: Lines
    blank: set[Keys]
    wins: tuple[_Override, ...]
    folder: Path

    def read(self) -> Sweep:
        """Make the sweep. Raises RecipeError."""
        self._refuse_names()
        arms, wrong = list[Arm](), dict[str, list[str]]()
        for name, own in (self.section.arms or {"": None}).items():
            for chosen in itertools.product(*(axis.items() for axis in self.section.grid.values())):
                point = dict(zip(self.section.grid, chosen, strict=True))
                try:
                    arms.append(self._make_arm(name, own, point))
                except RecipeError as error:
                    for line in str(error).splitlines():
                        wrong.setdefault(line, []).append(name)
        if wrong:
            raise RecipeError("\n".join(self._say(line, names) for line, names in wrong.items()))
        self._refuse_equal(arms)
        return Sweep(self.section.name, tuple(arms), self.section.seeds, self._write(), self.folder)

    def _write(self) -> str:
        """Write the file so that its copy says the same anywhere: recipes by whole paths, overrides that won."""
        written: Tree = {"name": self.section.name}
        if self.section.base:
            written["base"] = self._find_base(None, "")
        written["seeds"] = list(self.section.seeds)
        if self.section.arms:
            written["arms"] = {name: self._write_arm(name, own) for name, own in self.section.arms.items()}
        common = _as_block([*self._overrides(self.section.set, "set"), *self.wins])
        more = {key: value for key, value in (("grid", self.section.grid), ("set", common)) if value}
        return HEADER + write_yaml(written | more)

    def _write_arm(self, name: str, own: str | dict[str, object] | None) -> Tree:
        block = {"base": own} if isinstance(own, str) else dict(own or {})
        base: Tree = {"base": self._find_base(block.pop("base"), name)} if "base" in block else {}
        return base | _as_block(self._overrides(block, "arms", name))

    def _say(self, line: str, arms: list[str]) -> str:
        """Name the arms that a mistake is found in, unless it is in all."""
        found = dict.fromkeys(arms)
        return line if len(found) == max(1, len(self.section.arms)) else f"{line} (arm {', '.join(found)})"

    def _make_arm(self, name: str, own: str | dict[str, object] | None, point: Mapping[str, tuple[str, object]]) -> Arm:
        """Make one arm at one point of the grid, {key: (the value's name, the value)}. Raises RecipeError."""
        block = {"base": own} if isinstance(own, str) else dict(own or {})
        own_base = "base" in block
        base = self._find_base(block.pop("base", None), name)
        tree, lines = read_tree(base)
        before = _identity(parse_recipe(tree, lines))
        of_arm = self._overrides(block, "arms", name)
        of_grid = self._overrides({key: value for key, (_, value) in point.items()}, "grid")
        tree = _apply(tree, lines, of_arm)
        if of_arm and _identity(parse_recipe(tree, lines)) == before:
            raise RecipeError(
                f"{of_arm[0].where}: arms.{name}: its overrides change nothing in {base}: write `{name}: {{}}` for the "
                "recipe as it is, or another value"
            )
        tree = _apply(tree, lines, [*of_grid, *self._overrides(self.section.set, "set"), *self.wins])
        called = _name(name, {key: said for key, (said, _) in point.items()})
        differs = ({"base": base} if own_base else {}) | _as_block([*of_arm, *of_grid])
        return Arm(called, base, differs, parse_recipe(tree, lines))

    def _overrides(self, block: Mapping[str, object], *at: str) -> list[_Override]:
        """List the overrides of a block of the file, which stands there at these keys."""
        return [
            _Override(
                path := split_key(key),
                fill_blank(path, value) if (*at, key) in self.blank else value,
                self.lines[(*at, key)],
                {line[len(at) + 1 :]: where for line, where in self.lines.items() if line[: len(at) + 1] == (*at, key)},
            )
            for key, value in block.items()
        ]

    def _find_base(self, own: object, arm: str) -> str:
        """Find the recipe of an arm: its own, or that of all; a shipped one keeps its name. Raises RecipeError."""
        name = self.section.base if own is None else own
        keys = (("base",),) if own is None else (("arms", arm, "base"), ("arms", arm))
        where = next((self.lines[key] for key in keys if key in self.lines), self.lines[()])
        if name is None:
            raise RecipeError(f"{where}: base is missing: the recipe of all arms, a file or a shipped one")
        if not isinstance(name, str):
            raise RecipeError(f"{where}: base: write the path of one recipe, or the name of a shipped one")
        found = find_named(name, self.file)
        if not found:
            raise RecipeError(
                f"{where}: no such recipe: {self.file.parent / name}, and no shipped one of that name"
                + did_you_mean(name, recipe_names())
            )
        shipped, path = shipped_recipes().resolve(), found[0].resolve()
        return str(path.relative_to(shipped) if path.is_relative_to(shipped) else path)

    def _refuse_names(self) -> None:
        """Raises RecipeError for names of arms that no folder can have, or that differ in capitals alone."""
        small: dict[str, str] = {}
        for name in self.section.arms:
            where = self.lines.get(("arms", name), str(self.file))
            if not NAME.fullmatch(name) or len(name) > 80 or RUN.fullmatch(name):
                raise RecipeError(
                    f"{where}: arms: '{name}' names a folder: write letters, digits and _ . + - without a space, "
                    "80 at most, and not -seedN at the end"
                )
            if (other := small.setdefault(name.lower(), name)) != name:
                raise RecipeError(f"{where}: arms: '{name}' and '{other}' are one folder on some disks: rename one")

    def _refuse_equal(self, arms: Sequence[Arm]) -> None:
        """Raises RecipeError where two arms are the same recipe, or have one name, or one that no folder can have."""
        seen, named = dict[str, Arm](), Counter(arm.name for arm in arms)
        for arm in arms:
            where = self.lines.get(("arms", arm.name), self.lines.get(("grid",), str(self.file)))
            if len(f"{self.section.name}/{name_run(arm.name, 2**63)}".encode()) > LONGEST:
                raise RecipeError(f"{where}: '{arm.name}' is too long for the name of a folder: name the grid's values")
            if named[arm.name] > 1:
                raise RecipeError(
                    f"{where}: '{arm.name}' would be the name of two arms: the grid has a value twice, or two that "
                    "read alike: write those as arms"
                )
            if other := seen.get(same := _identity(arm.recipe)):
                raise RecipeError(
                    f"{where}: the arms '{other.name}' and '{arm.name}' are the same recipe: they would be compared "
                    "with themselves; take one away, or let them differ"
                )
            seen[same] = arm


def _as_block(overrides: Iterable[_Override]) -> Tree:
    return {".".join(override.path): override.value for override in overrides}


def _apply(tree: Tree, lines: Lines, overrides: Iterable[_Override]) -> Tree:
    """Set keys of a recipe's tree, and remember where each was written. Raises RecipeError."""
    for path, value, where, below in overrides:
        if not all(path):
            raise RecipeError(f"{where}: '{'.'.join(path)}': write a key as in a recipe, as train.lr")
        if path[0] in OWN:
            word = "use `seeds`" if path[0] == "seed" else "the arm's name stands for it"
            raise RecipeError(f"{where}: {path[0]}: every run of a sweep has its own: {word}")
        remember_lines(lines, path, value, where)
        lines |= {(*path, *rest): line for rest, line in below.items()}
        tree = set_key(tree, path, value)
    return tree


def _identity(recipe: Recipe) -> str:
    """Write out what a recipe trains, without the keys that are each run's own."""
    return replace_own(recipe, 0, "any").as_yaml()


def _name(arm: str, point: Mapping[str, str]) -> str:
    """Name an arm at a point of the grid, as `clip-lr=0.001`; by whole keys where their last words are alike."""
    last = Counter(split_key(key)[-1] for key in point)
    words = [arm] if arm else []
    for key, said in point.items():
        short = split_key(key)[-1]
        words.append(f"{short if last[short] == 1 else key}={said}")
    return "-".join(words) or "base"
