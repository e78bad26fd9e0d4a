"""Draws the house: its rooms by floor, and which imports which, from the code itself.

    python docs/draw_house.py          # writes docs/house.svg, and docs/house.csv with every arrow there is
    python docs/draw_house.py --check  # exit 1 when the code has other rooms or arrows than docs/house.csv

A room is a folder of `workbench`, or a file beside the folders; `kernels` and `synthetic` are a room each. The floors
are those of the import contract in pyproject.toml, so an arrow that pointed up would break `lint-imports` first. The
picture leaves out every arrow that follows from others (a room that imports B and C needs none to C where B imports
C), and those to rooms that serve all: with them nothing could be seen. The trap: a line that crosses floors would run
behind boxes as if it ended there; it is led between them, by points that take a place in each row that it crosses.
"""

from __future__ import annotations

import csv
import sys
import tomllib
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import fmean as mean

import grimp
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

ROOT = Path(__file__).parents[1]
EDGES, PICTURE = ROOT / "docs" / "house.csv", ROOT / "docs" / "house.svg"

WORDS = {
    "cli": "one verb a file", "bench": "measures the workbench", "studies": "many runs together",
    "runs": "a recipe's life in a folder",
    "export": "for other clients", "build": "where parts meet", "contracts": "what parts must have",
    "first_law": "no sample sees another", "conformance": "for the type checker",
    "callbacks": "around a step", "inspection": "a data set before training", "builders": "how our data were made",
    "objectives": "the losses", "fusion": "several into one", "encoders": "towers", "data": "data sets",
    "evals": "facts about a model", "engine": "the one loop", "figures": "what people look at",
    "terms": "the idea: contrast terms", "loading": "from bytes to a batch", "training": "what a step stands on",
    "scoring": "a model is asked", "recipe": "what a person writes", "distributed": "more than one process",
    "model": "the map of a sample", "types": "what parts are asked for", "values": "the words that all speak",
    "contrasts": "rows as kernels see them", "term": "one contrast in a recipe",
    "scale": "a learned factor", "attention": "a block of transformers", "postponed": "imported when used",
    "seeds": "randomness by place", "starting": "begins and ends sooner",
    "errors": "what is said to people", "kernels": "losses in linear memory", "synthetic": "tasks with exact truths",
}  # fmt: skip
"""{room: what is in it}"""
INK, QUIET, PAPER, EDGE = "#1f2430", "#5b6472", "#ffffff", "#c9ced6"
FLOORS = [
    "#eef2fb",
    "#e9f3f1",
    "#f7f0e4",
    "#f8ebe7",
    "#f1ecf7",
    "#e8f1f8",
    "#eef4e6",
    "#faf3dc",
    "#f5e9ef",
    "#e6f2f2",
    "#eceef2",
]
FILE, FOLDER, GROUND = "#ffffff", "#ffffff", "#26323f"
LINES = [
    "#3b6fb6",
    "#2f8f83",
    "#c07f2a",
    "#c2553d",
    "#7a5ab0",
    "#4a86ad",
    "#6d9140",
    "#b3952a",
    "#a8557d",
    "#3d8d8d",
    "#6b7280",
]
WIDE, HIGH, ROW, GAP, NARROW = 2.02, 0.62, 1.25, 0.26, 0.2
"""inches: a box, from floor to floor, between boxes, and the place of a line that passes"""
PULL = 0.97
"""towards the middle, so that nothing drifts away"""
HIDDEN = {"conformance"}
"""rooms that are not drawn: it imports every component for the type checker alone, and never runs"""
SERVE_ALL = {"types", "seeds", "errors"}
"""rooms to which no arrow is drawn: nearly every room would have three"""


def read_floors() -> list[list[str]]:
    """Read the rooms of each floor, from the top, out of the import contract; the last one is what stands alone."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (c["layers"] for c in contracts if c.get("containers") == ["workbench"])
    return [*([room.strip() for room in layer.split("|")] for layer in layers), ["kernels", "synthetic"]]


def read_edges() -> list[tuple[str, str]]:
    """Find (room, room that it imports), sorted, each once."""
    graph = grimp.build_graph("workbench", "kernels", "synthetic", cache_dir=None)
    found = {
        (_room(module), _room(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return sorted((a, b) for a, b in found if a != b and a and b)


def _room(module: str) -> str:
    """The room of a module; nothing for `workbench` itself, whose lines only open the door."""
    package, *rest = module.split(".")
    return package if package != "workbench" else rest[0] if rest and rest[0] != "__main__" else ""


def leave_out_implied(edges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out every arrow that a chain of others says already."""
    below: dict[str, set[str]] = {}
    for a, b in edges:
        below.setdefault(a, set()).add(b)

    def reaches(start: str, goal: str) -> bool:
        return start == goal or any(reaches(room, goal) for room in below.get(start, ()))

    return [(a, b) for a, b in edges if not any(reaches(room, b) for room in below[a] - {b})]


class Layout:
    """Where each box stands, and where each line passes.

    Every line that crosses floors has a point in each of them. Boxes and points of a row are ordered by where their
    neighbours above and below stand, again and again, and then pushed apart.
    """

    def __init__(self, floors: list[list[str]], edges: list[tuple[str, str]]) -> None:
        floor = {room: number for number, rooms in enumerate(floors) for room in rooms}
        self.rows: list[list[str]] = [list(rooms) for rooms in floors]
        self.lines: list[list[str]] = []
        for a, b in edges:
            passed = [f"{a}>{b}@{row}" for row in range(floor[a] + 1, floor[b])]
            for row, point in zip(range(floor[a] + 1, floor[b]), passed, strict=True):
                self.rows[row].append(point)
            self.lines.append([a, *passed, b])
        self.near: dict[str, list[str]] = {}
        for line in self.lines:
            for a, b in pairwise(line):
                self.near.setdefault(a, []).append(b)
                self.near.setdefault(b, []).append(a)
        self.x = {item: 2.0 * (place - len(row) / 2) for row in self.rows for place, item in enumerate(row)}
        self.y = {item: -ROW * number for number, row in enumerate(self.rows) for item in row}
        for _ in range(60):
            for row in self.rows:
                self._settle(row)

    def _settle(self, row: list[str]) -> None:
        """Move a row as near as possible to where its neighbours are, in the order that this gives, without overlap."""
        wanted = {item: PULL * mean(self.x[other] for other in self.near.get(item, [item])) for item in row}
        row.sort(key=lambda item: (wanted[item], item))
        offset = list(accumulate((_space(a) + _space(b) for a, b in pairwise(row)), initial=0.0))
        free = rise([wanted[item] - at for item, at in zip(row, offset, strict=True)])
        self.x |= {item: at + where for item, at, where in zip(row, offset, free, strict=True)}


def rise(values: list[float]) -> list[float]:
    """The nearest sequence (least squares) that nowhere falls: pools of neighbours that would, at their mean."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and mean(pools[-2]) > mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return [mean(pool) for pool in pools for _ in pool]


def _space(item: str) -> float:
    """Half of the width that an item takes."""
    return (NARROW if "@" in item else WIDE + GAP) / 2


def draw(floors: list[list[str]], edges: list[tuple[str, str]]) -> Figure:
    """Draw the rooms that `floors` names, and the arrows that no others imply."""
    floors = [[room for room in rooms if room not in HIDDEN] for rooms in floors]
    layout = Layout(floors, [(a, b) for a, b in leave_out_implied(edges) if b not in SERVE_ALL and not {a, b} & HIDDEN])
    x, y = layout.x, layout.y
    left, right = min(x.values()) - WIDE / 2 - 0.5, max(x.values()) + WIDE / 2 + 0.5
    bottom, top = -ROW * (len(floors) - 1) - 0.75, 1.4
    figure = Figure(figsize=(right - left, top - bottom), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    said = "Arrows that follow from others are left out, and those to types, seeds and errors, which serve every room."
    axes.text(left + 0.35, top - 0.3, "Who imports whom", fontsize=17, color=INK, va="center", weight="bold")
    axes.text(left + 0.35, top - 0.6, f"Every arrow points down. {said}", fontsize=10.5, color=QUIET, va="center")
    for number in range(len(floors)):
        shape = FancyBboxPatch(
            (left + 0.22, -ROW * number - 0.5), right - left - 0.44, 1.0, boxstyle="round,pad=0,rounding_size=0.12",
            fc=FLOORS[number % len(FLOORS)], ec="none", zorder=0,
        )  # fmt: skip
        axes.add_patch(shape)
    for line in layout.lines:
        colour = LINES[round(-y[line[0]] / ROW) % len(LINES)]
        axes.add_patch(
            PathPatch(_curve([(x[item], y[item]) for item in line]), fc="none", ec=colour, lw=1.5, alpha=0.85, zorder=2)
        )
        _point_down(axes, x[line[-1]], y[line[-1]] + HIGH / 2, colour)
    files = count_files()
    for rooms in floors:
        for room in rooms:
            _box(axes, x[room], y[room], room, files[room])
    return figure


def _curve(points: list[tuple[float, float]]) -> Curve:
    """A line from the bottom of the first box to the top of the last, upright wherever it meets a floor."""
    (x0, y0), *passed, (x1, y1) = points
    stops = [(x0, y0 - HIGH / 2)]
    for x, y in passed:
        stops += [(x, y + HIGH / 2), (x, y - HIGH / 2)]
    stops.append((x1, y1 + HIGH / 2 + 0.07))
    corners, codes = [stops[0]], [Curve.MOVETO]
    for (xa, ya), (xb, yb) in pairwise(stops):
        middle = (ya + yb) / 2
        corners += [(xa, middle), (xb, middle), (xb, yb)]
        codes += [Curve.CURVE4] * 3
    return Curve(corners, codes)


def _point_down(axes: Axes, x: float, y: float, colour: str) -> None:
    axes.fill([x - 0.055, x + 0.055, x], [y + 0.12, y + 0.12, y], color=colour, lw=0, zorder=3)


def _box(axes: Axes, x: float, y: float, room: str, files: int) -> None:
    ground, alone = room in ("kernels", "synthetic"), files == 0
    shape = FancyBboxPatch(
        (x - WIDE / 2, y - HIGH / 2), WIDE, HIGH, boxstyle="round,pad=0,rounding_size=0.08",
        fc=GROUND if ground else PAPER, ec=GROUND if ground else EDGE if alone else INK, lw=1.1, zorder=4,
    )  # fmt: skip
    axes.add_patch(shape)
    name = f"{room}.py" if alone else f"{room}/"
    axes.text(
        x - WIDE / 2 + 0.12,
        y + 0.13,
        name,
        fontsize=11.5,
        weight="bold",
        color=PAPER if ground else INK,
        va="center",
        zorder=5,
    )
    if not alone:
        axes.text(
            x + WIDE / 2 - 0.12,
            y + 0.13,
            f"{files}",
            fontsize=8.5,
            color="#c6d0db" if ground else QUIET,
            va="center",
            ha="right",
            zorder=5,
        )
    axes.text(
        x - WIDE / 2 + 0.12,
        y - 0.14,
        WORDS[room],
        fontsize=9,
        color="#dfe6ee" if ground else QUIET,
        va="center",
        zorder=5,
    )


def count_files() -> dict[str, int]:
    """Count the files of each folder, `__init__.py` aside; 0 for a room that is a single file."""
    folders = {room: ROOT / ("" if room in ("kernels", "synthetic") else "workbench") / room for room in WORDS}
    return {room: sum(f.name != "__init__.py" for f in folder.rglob("*.py")) for room, folder in folders.items()}


def write_edges(edges: list[tuple[str, str]]) -> str:
    """Write the arrows as a CSV: importing room, imported room."""
    return "".join(f"{a},{b}\n" for a, b in [("room", "imports"), *edges])


def read_committed() -> list[tuple[str, str]]:
    """Read the arrows of docs/house.csv."""
    with EDGES.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return [(a, b) for a, b in rows]


def main(arguments: list[str]) -> int:
    """Draw, or check; returns the exit status."""
    edges = read_edges()
    if "--check" in arguments:
        gone, new = set(read_committed()) - set(edges), set(edges) - set(read_committed())
        for sign, pairs in (("+", new), ("-", gone)):
            for a, b in sorted(pairs):
                print(f"{sign} {a} imports {b}")
        return 1 if gone or new else 0
    EDGES.write_text(write_edges(edges), encoding="utf-8")
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "house", "font.family": ["DejaVu Sans", "sans-serif"]}
    ):
        draw(read_floors(), edges).savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE}: {len(edges)} arrows, {len(leave_out_implied(edges))} drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
