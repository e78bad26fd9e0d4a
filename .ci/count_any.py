"""Counts the functions whose signature says `Any`, prints each with its line, and fails when they are too many.

    python .ci/count_any.py              # the list, the share of each folder, the share of all; exit 1 above LIMIT
    python .ci/count_any.py workbench/recipe

`Any` switches the type checker off behind the function that says it, and an editor has nowhere to jump to.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LIMIT = 0.06
"""the largest share of functions that may say `Any`"""
ROOT = Path(__file__).parents[1]
PACKAGES = ("workbench", "kernels", "synthetic")


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file, nested ones too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def says_any(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether `Any` stands in the annotation of an argument or of the result, alone or inside another type."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    annotations = [function.returns, *(argument.annotation for argument in arguments if argument)]
    return any(
        isinstance(part, ast.Name) and part.id == "Any"
        for annotation in annotations
        if annotation
        for part in ast.walk(annotation)
    )


def main(places: list[str]) -> int:
    """Print what is below `places` (default: all packages); returns the exit status."""
    all_of, saying = Counter[str](), Counter[str]()
    for place in places or PACKAGES:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = str(file.relative_to(ROOT))
            room = str(Path(name).parent)
            for function in functions(file):
                all_of[room] += 1
                if says_any(function):
                    saying[room] += 1
                    print(f"{name}:{function.lineno}: {function.name}")
    print()
    for room in sorted(all_of):
        print(f"{room:28} {saying[room]:4} of {all_of[room]:4}  {saying[room] / all_of[room]:6.1%}")
    share = saying.total() / max(1, all_of.total())
    print(f"{'together':28} {saying.total():4} of {all_of.total():4}  {share:6.1%}")
    if share < LIMIT:
        return 0
    print(f"{share:.1%} of the functions say Any, {LIMIT:.1%} is too much: write the type that is meant")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
