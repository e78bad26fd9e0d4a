"""Breaks the code on purpose, one named defect at a time, and prints the defects that no test notices.

    just mutate                    all of them: 23 minutes of a core for 479
    just mutate engine dropout     those of a room (a file of defects/), or with a word in their names
    just mutate --list

A defect puts one text of a file in the place of another and names the tests that should notice (defects/ROOM.yaml).
Each is applied to a copy of the tree, where its tests run until one fails. It survives when none does: then a test is
missing. Exits with 1 when a defect survives, no longer applies, or breaks more than it says; with 2 when the tests fail
without any.

Traps
- A test that fails anyway notices everything. So all named tests have to pass on the copy first.
- Tests run in a fork of this process, which has imported what is slow and not ours; ours it must never import.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEFECTS = Path(__file__).parent / "defects"
COPIED = ("workbench", "kernels", "synthetic", "recipes", "tests", "pyproject.toml")
SLOW_TO_IMPORT = ("torch", "torchvision.transforms.v2", "pyarrow.parquet", "sklearn.linear_model", "open_clip")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--timeout=120")
"""of pytest; a defect may make a test wait for ever, which counts as noticed"""
MEMORY = 8 * 2**30
"""bytes that a process may have: a defect may also fill the memory, of a machine that others use"""

Verdict = Literal["noticed", "SURVIVED", "STALE", "BROKEN"]


@dataclass(frozen=True)
class Defect:
    """One text of one file in the place of another, and the tests that should notice."""

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    slow: bool = False
    """whether tests that are marked slow run, too"""

    def apply(self, root: Path) -> str:
        """Return the text of the file with the defect in it. Raises ValueError when it no longer fits the file."""
        path = root / self.file
        if not path.is_file():
            raise ValueError(f"there is no {self.file}")
        text = path.read_text(encoding="utf-8")
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"its old text is {found} times in {self.file}, not once: {self.old!r}")
        broken = text.replace(self.old, self.new)
        try:
            ast.parse(broken, self.file)
        except SyntaxError as error:
            raise ValueError(f"with it {self.file} does not parse: {error}") from None
        return broken


@dataclass(frozen=True)
class Result:
    defect: Defect
    verdict: Verdict
    reason: str
    """the test that noticed, or what is wrong with the defect"""
    seconds: float = 0.0


def load(folder: Path = DEFECTS) -> list[Defect]:
    """Read the defects of all rooms."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        for name, d in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            tests = (d["tests"],) if isinstance(d["tests"], str) else tuple(d["tests"])
            found.append(Defect(path.stem, name, d["file"], d["old"], d["new"], tests, d.get("slow", False)))
    return found


def choose(defects: Iterable[Defect], words: Sequence[str]) -> list[Defect]:
    """Keep the defects whose room is one of the words, or whose name has one in it; all of them without words."""
    return [d for d in defects if not words or any(word == d.room or word in d.name for word in words)]


def copy_tree(root: Path, to: Path) -> Path:
    """Copy what tests need; returns the copy."""
    to.mkdir()
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).exists():
            shutil.copy2(root / name, to / name)
    return to


@contextmanager
def broken_by(defect: Defect, tree: Path) -> Iterator[None]:
    """Put the defect into the tree for a block. Raises ValueError when it no longer applies."""
    path, text = tree / defect.file, defect.apply(tree)
    sound, status = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(sound, encoding="utf-8")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that its .pyc counts again


def run_tests(tree: Path, tests: Iterable[str], slow: bool, output: Path, keep_bytecode: bool = False) -> None:
    """Run tests of a tree against its own code until one fails, and leave this process with pytest's exit status."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)  # for the processes that tests start
    # a defect's .pyc would be taken for that of the next one, where both are written in the same second
    sys.dont_write_bytecode = not keep_bytecode
    os.environ["PYTHONDONTWRITEBYTECODE"] = "" if keep_bytecode else "1"
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    status = pytest.main([*OPTIONS, "-m", "not large" if slow else "not slow and not large", *tests])
    sys.stdout.flush()
    os._exit(status)


def judge(status: int | None, output: str) -> tuple[Verdict, str]:
    """Turn pytest's exit status into a verdict: only a test that ran and failed has noticed anything."""
    if status == 0:
        return "SURVIVED", "every named test passes"
    if status == 1:
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return "noticed", failed[1].rpartition("::")[2] if failed else "a test that did not end"
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    if status in (4, 5):
        return "STALE", f"its tests are not there: {last}"
    return "BROKEN", f"it breaks more than it says, so that pytest ends with {status}: {last}"


def try_all(defects: Sequence[Defect], trees: Sequence[Path]) -> Iterator[Result]:
    """Try every defect, one at a time in each of the trees; yields results as they come."""
    processes, waiting, free = get_context("fork"), list(reversed(defects)), list(trees)
    running: dict[int, tuple] = {}
    while waiting or running:
        while waiting and free:
            defect, tree = waiting.pop(), free.pop()
            breaking, output = broken_by(defect, tree), tree.with_suffix(".txt")
            try:
                breaking.__enter__()
            except ValueError as error:
                free.append(tree)
                yield Result(defect, "STALE", str(error))
                continue
            process = processes.Process(target=run_tests, args=(tree, defect.tests, defect.slow, output))
            process.start()
            running[process.sentinel] = (process, defect, tree, breaking, output, time.monotonic())
        for sentinel in wait(list(running)):
            process, defect, tree, breaking, output, began = running.pop(sentinel)
            process.join()
            breaking.__exit__(None, None, None)
            free.append(tree)
            said = output.read_text(encoding="utf-8", errors="replace")
            yield Result(defect, *judge(process.exitcode, said), time.monotonic() - began)


def pass_as_it_is(defects: Sequence[Defect], tree: Path) -> bool:
    """Run the tests of all defects on the tree as it is; prints how they fail."""
    output = tree.with_suffix(".txt")
    for slow in (False, True):
        tests = dict.fromkeys(test for d in defects if d.slow == slow for test in d.tests)
        process = get_context("fork").Process(target=run_tests, args=(tree, tests, slow, output, True))
        if tests:
            process.start()
            process.join()
        if tests and process.exitcode:
            print(output.read_text()[-3000:], "The tests have to pass before anything is broken.", sep="\n")
            return False
    return True


def main(arguments: Sequence[str] | None = None, root: Path = ROOT, folder: Path = DEFECTS) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="rooms, or words in the names of defects; all of them by default")
    parser.add_argument(
        "--jobs", type=int, default=1, help="defects that are tried at once, each in a copy of the tree"
    )
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args(arguments)
    chosen = choose(load(folder), options.words)
    if not chosen:
        parser.error(f"no defect is called {' or '.join(options.words)}: --list prints those there are")
    if options.list:
        print(*(f"{d.room}: {d.name}" for d in chosen), sep="\n")
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads of OpenMP cannot be forked
    # Whoever imports triton, directly or not, decides whether kernels are interpreted: what is imported below may
    os.environ.setdefault("TRITON_INTERPRET", "1")
    for name in SLOW_TO_IMPORT:
        with suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as copies:
        trees = [copy_tree(root, Path(copies) / str(n)) for n in range(max(1, options.jobs))]
        if not pass_as_it_is(chosen, trees[0]):
            return 2
        results = []
        for result in try_all(chosen, trees):
            results.append(result)
            where = f"{result.defect.room}: {result.defect.name}"
            print(f"{result.verdict:8} {result.seconds:4.0f} s  {where}  ({result.reason})", flush=True)
    return summarise(results)


def summarise(results: Sequence[Result]) -> int:
    """Print what went unnoticed, and the counts; returns the exit status."""
    missed = [r for r in results if r.verdict != "noticed"]
    for r in missed:
        print(f"\n{r.verdict}  {r.defect.room}: {r.defect.name}\n  {r.defect.file}: {r.reason}")
        print(f"  - {r.defect.old}\n  + {r.defect.new}".replace("\n", "\n    "))
    rooms: dict[str, int] = {}
    for r in results:
        rooms[r.defect.room] = rooms.get(r.defect.room, 0) + 1
    counted = ", ".join(f"{room} {number}" for room, number in rooms.items())
    survivors = sum(r.verdict == "SURVIVED" for r in missed)
    print(f"\n{len(results)} defects ({counted}): {survivors} survive, {len(missed) - survivors} do not apply.")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
