"""Prints the oldest versions that pyproject.toml allows, as constraints of pip: one `name==version` a line.

    python .ci/lower_bounds.py > oldest.txt               # what `pip install .` needs
    python .ci/lower_bounds.py dev audio > oldest.txt     # and these extras
    pip install -c oldest.txt -e '.[dev,audio]'

A requirement without a lower bound is left out, and a comment says so: pip takes the newest of it.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?(?P<bounds>[^;]*)(?P<marker>;.*)?")


def read_requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Read the dependencies of the project and of `extras`. Raises SystemExit for an unknown extra."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional: dict[str, list[str]] = project["optional-dependencies"]
    if unknown := sorted(set(extras) - set(optional)):
        raise SystemExit(f"no extra {', '.join(unknown)} in {pyproject.name}; there are {', '.join(sorted(optional))}")
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


def constrain(requirement: str) -> str:
    """Write a requirement as the constraint on its lower bound. Raises ValueError where it is no requirement."""
    found = REQUIREMENT.fullmatch(requirement.strip())
    if not found:
        raise ValueError(f"not a requirement: {requirement!r}")
    lower = re.search(r">=\s*([\w.]+)", found["bounds"])
    if not lower:
        return f"# {found['name']} has no lower bound"
    marker = f" {found['marker']}" if found["marker"] else ""
    return f"{found['name']}=={lower[1]}{marker}"


def main(extras: list[str]) -> None:
    """Print the constraints of the project with `extras`, each once."""
    lines = dict.fromkeys(constrain(line) for line in read_requirements(PYPROJECT, extras))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
