"""Draws the figures of docs/concepts.md and of the README: SVG files in docs/figures, the same bytes every time.

    python docs/draw_concepts.py          # writes every figure
    python docs/draw_concepts.py --check  # exit 1 when a figure is not what this script draws

Each figure stands on a card of its own colour, and turns dark with the reader's browser. The trap: a figure in an <img>
sees the browser's preference and not the switch of the page around it, so it must be readable on its card alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from synthetic.xor import XOR

FIGURES = Path(__file__).parent / "figures"
LIGHT = {
    "ink": "#1f2430", "quiet": "#5b6472", "paper": "#ffffff", "edge": "#c3c9d2", "none": "#eceff3", "onto": "#ffffff",
    "one": "#2563c9", "two": "#c2571a", "three": "#0d7d6c",
}  # fmt: skip
DARK = {
    "ink": "#e6e9ef", "quiet": "#a7b0bd", "paper": "#1b1f27", "edge": "#4a525f", "none": "#2b313b", "onto": "#14171d",
    "one": "#5b93ea", "two": "#e08a4f", "three": "#3fb3a0",
}  # fmt: skip
SHAPES = """  text { font-family: system-ui, -apple-system, 'Segoe UI', sans-serif; font-size: 13px }
  .title { font-size: 15px; font-weight: 600 } .code { font-family: ui-monospace, monospace }
  .middle { text-anchor: middle } .end { text-anchor: end } .dash { stroke-dasharray: 5 4; fill: none }
  .rule, .line-one, .line-two, .line-three { fill: none } .line-one, .line-two, .line-three { stroke-width: 2.5 }"""

Colour = Literal["one", "two", "three"]
COLOURS: tuple[Colour, ...] = ("one", "two", "three")
Point = tuple[float, float]
Nodes = dict[str, tuple[Point, Colour]]


def colours(palette: Mapping[str, str]) -> str:
    """Write the CSS rules of one palette: text, card, lines, and boxes with the lines of their colour."""
    named = ["ink", "quiet", "paper", "edge", "none", "onto"]
    ink, quiet, paper, edge, none, onto = (palette[name] for name in named)
    rules = [
        f"text {{ fill: {ink} }} text.quiet {{ fill: {quiet} }} text.onto {{ fill: {onto} }}",
        f".paper {{ fill: {paper}; stroke: {edge} }} .rule {{ stroke: {edge} }} .dash {{ stroke: {quiet} }}",
        f".none {{ fill: {none} }}",
        *(f".{name} {{ fill: {palette[name]} }} .line-{name} {{ stroke: {palette[name]} }}" for name in COLOURS),
    ]
    return "\n".join(f"    {rule}" for rule in rules)


@dataclass
class Canvas:
    """A card of `wide` x `high` pixels, on which elements are laid in order; `label` is read out by screen readers."""

    wide: int
    high: int
    label: str
    elements: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "") -> None:
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.elements.append(f'<text class="{style}" x="{x:g}" y="{y:g}">{words}</text>')

    def line(self, points: Sequence[Point], style: str) -> None:
        self.elements.append(f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')

    def box(self, x: float, y: float, wide: float, high: float, style: str, round_: float = 4) -> None:
        self.elements.append(
            f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="{round_:g}"/>'
        )

    def node(self, at: Point, words: str, colour: Colour, wide: float = 34) -> None:
        """Lay a rounded box with a name, whose middle is `at`."""
        x, y = at
        self.box(x - wide / 2, y - 13, wide, 26, colour, 13)
        self.text(x, y + 4.5, words, "middle onto")

    def svg(self) -> str:
        card = f'<rect class="paper" x=".5" y=".5" width="{self.wide - 1}" height="{self.high - 1}" rx="10"/>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.wide} {self.high}" role="img"'
        style = f"{SHAPES}\n{colours(LIGHT)}\n  @media (prefers-color-scheme: dark) {{\n{colours(DARK)} }}"
        body = "\n".join([card, *self.elements])
        return f'{head} aria-label="{self.label}">\n<style>\n{style}\n</style>\n{body}\n</svg>\n'


def draw_graph(canvas: Canvas, nodes: Mapping[str, tuple[Point, Colour]], terms: Sequence[tuple[str, str]]) -> None:
    """Draw sides as boxes and each term as the line between two of them."""
    for a, b in terms:
        canvas.line([nodes[a][0], nodes[b][0]], f"line-{nodes[a][1]}")
    for name, (at, colour) in nodes.items():
        canvas.node(at, name, colour, 34 if len(name) < 3 else 16 + 8.4 * len(name))


def triangle(x: float, y: float, size: float) -> Nodes:
    """Place the sides a, b, c at the corners of a triangle whose middle is (x, y)."""
    return {
        "a": ((x - size, y - 0.7 * size), "one"),
        "b": ((x + size, y - 0.7 * size), "one"),
        "c": ((x, y + size), "one"),
    }


def fused_triangle(x: float, y: float, size: float) -> Nodes:
    """Place the three single sides and the three fused ones, each opposite to the side that it meets."""
    fused: Nodes = {
        "a+b": ((x, y - 0.7 * size - 44), "two"),
        "b+c": ((x + 1.25 * size + 14, y + 0.55 * size), "two"),
        "a+c": ((x - 1.25 * size - 14, y + 0.55 * size), "two"),
    }
    return triangle(x, y, size) | fused


PAIRS = [("a", "b"), ("a", "c"), ("b", "c")]
FUSED = [("a+b", "c"), ("b+c", "a"), ("a+c", "b")]


def draw_objectives() -> Canvas:
    """Four objectives as graphs: their sides are boxes, their terms lines."""
    canvas = Canvas(860, 270, "Four objectives as graphs of sides and terms")
    for x, title in ((30, "CLIP"), (215, "CLIP, three modalities"), (440, "ConFu"), (665, "ITO")):
        canvas.text(x, 34, title, "title")
    pair: Nodes = {"image": ((70, 150), "one"), "text": ((150, 150), "one")}
    draw_graph(canvas, pair, [("image", "text")])
    canvas.text(110, 245, "1 term", "middle quiet")
    draw_graph(canvas, triangle(300, 140, 50), PAIRS)
    canvas.text(300, 245, "3 terms", "middle quiet")
    draw_graph(canvas, fused_triangle(525, 145, 50), FUSED + PAIRS)
    canvas.text(525, 245, "6 terms: 3 of pairs, 3 of fusions", "middle quiet")
    ito: Nodes = {
        "image ": ((700, 90), "one"), "text ": ((800, 90), "one"),
        "image+text": ((750, 170), "two"),
    }  # fmt: skip
    canvas.line([(700, 103), (735, 157)], "rule")
    canvas.line([(800, 103), (765, 157)], "rule")
    canvas.elements.append('<path class="line-two" d="M 715 183 C 700 222, 800 222, 785 183"/>')
    draw_graph(canvas, ito, [("image ", "text ")])
    canvas.text(750, 245, "2 terms; fusion only in training", "middle quiet")
    return canvas


def draw_sides() -> Canvas:
    """From items to sides: encoders, heads, fusion."""
    canvas = Canvas(860, 300, "How items become sides: encoders, heads and a fusion")
    for x, title in ((30, "items"), (170, "encoder (tower)"), (360, "features"), (520, "head, fusion"), (700, "side")):
        canvas.text(x, 34, title, "title")
    for y, name in ((90, "image"), (180, "text")):
        canvas.box(30, y - 18, 80, 36, "none")
        canvas.text(70, y + 5, name, "middle code")
        canvas.line([(110, y), (170, y)], "rule")
        canvas.box(170, y - 22, 110, 44, "rule")
        canvas.text(225, y + 5, "ViT" if name == "image" else "transformer", "middle")
        canvas.line([(280, y), (360, y)], "rule")
        canvas.text(364, y - 2, f"h_{name}, tokens", "code")
        canvas.text(364, y + 15, "not normalised", "quiet")
        canvas.line([(500, y), (560, y)], "rule")
        canvas.text(565, y + 5, "head", "")
        canvas.line([(605, y), (700, y)], "line-one")
        canvas.node((750, y), name, "one", 70)
    canvas.line([(520, 90), (520, 255), (540, 255)], "rule")
    canvas.box(540, 233, 90, 44, "rule")
    canvas.text(585, 260, "fusion", "middle")
    canvas.line([(630, 255), (690, 255)], "line-two")
    canvas.node((750, 255), "image+text", "two", 106)
    canvas.text(30, 250, "Every row depends on its own sample alone; only", "quiet")
    canvas.text(30, 268, "the objective compares samples. All sides are unit vectors.", "quiet")
    return canvas


def draw_positives() -> Canvas:
    """Which candidates are right answers: unique ids, a repeated id, two captions in one row or pairwise."""
    canvas = Canvas(860, 300, "Positives and negatives in the matrix of scores")
    cell = 26
    panels: list[tuple[str, str, Sequence[str], Sequence[str]]] = [
        ("every id is its own", "CLIP: one right answer a row", "12345", "12345"),
        ("an id twice", "data.id: two rows are one thing", "12334", "12334"),
        ("two captions a sample", "positives: mean, logsum or each", "123", "112233"),
    ]
    for number, (title, words, rows, columns) in enumerate(panels):
        left, top = 55 + 290 * number, 90
        canvas.text(left - 25, 34, title, "title")
        canvas.text(left - 25, 54, words, "quiet")
        for j, column in enumerate(columns):
            canvas.text(left + cell * (j + 0.5), top - 8, column, "middle code quiet")
        for i, row in enumerate(rows):
            canvas.text(left - 12, top + cell * (i + 0.5) + 5, row, "middle code quiet")
            for j, column in enumerate(columns):
                style = "three" if row == column else "none"
                canvas.box(left + cell * j + 1, top + cell * i + 1, cell - 2, cell - 2, style)
    canvas.box(30, 258, 18, 18, "three")
    canvas.text(56, 272, "positive: equal ids", "")
    canvas.box(210, 258, 18, 18, "none")
    canvas.text(236, 272, "negative", "")
    canvas.text(330, 264, "The default, positives: pairwise, contrasts each view with each", "quiet")
    canvas.text(330, 282, "caption in a softmax of its own, as in the left panel.", "quiet")
    return canvas


def draw_floors() -> Canvas:
    """ln B, the exact floor and the naive bound against the batch, for a fused term on XOR."""
    canvas = Canvas(860, 330, "The loss of knowing nothing, the exact floor and the bound ln B - I against the batch")
    canvas.text(30, 34, "a+b against c on XOR of 3 bits: what the loss may be, against the batch", "title")
    left, top, wide, high, most = 70, 60, 520, 220, math.log(1024)
    batches = [2**k for k in range(1, 11)]

    def place(batch: float, nats: float) -> Point:
        return left + wide * math.log2(batch) / 10, top + high * (1 - nats / most)

    for nats in range(math.ceil(most)):
        canvas.line([place(1, nats), place(1024, nats)], "rule")
        canvas.text(left - 10, place(1, nats)[1] + 4, f"{nats}", "end quiet")
    for batch in batches[1::2]:
        canvas.text(place(batch, 0)[0], top + high + 20, f"{batch}", "middle quiet")
    canvas.text(left + wide / 2, top + high + 40, "batch B (nats against samples)", "middle quiet")
    information = 3 * math.log(2)
    floor = {batch: XOR().truth(batch).infonce(("a", "b"), ("c",)) for batch in batches}
    canvas.line([place(batch, math.log(batch)) for batch in batches], "line-two")
    canvas.line([place(batch, best.value) for batch, best in floor.items() if best], "line-three")
    naive = [(information, 0.0), *((math.log(b), math.log(b) - information) for b in batches if b >= 8)]
    canvas.line([place(math.exp(x), y) for x, y in naive], "dash")
    rows: list[tuple[float, str, str, str]] = [
        (90, "two", "ln B", "a model that knows nothing"),
        (150, "three", "the floor L*_B", "the best any model can reach"),
        (210, "", "ln B - I", "the bound that papers quote,"),
    ]
    for y, colour, name, words in rows:
        canvas.line([(620, y - 5), (650, y - 5)], f"line-{colour}" if colour else "dash")
        canvas.text(660, y, name, "title")
        canvas.text(660, y + 20, words, "quiet")
    canvas.text(660, 248, "and too low where B is small", "quiet")
    return canvas


MEASURED = {"CLIP": (16.638, "clip"), "Symile": (3.483, "symile"), "ConFu": (13.542, "confu")}
"""{objective: (loss that `wb synth --task xor` printed, its name among the floors)}"""


def draw_first() -> Canvas:
    """CLIP beside ConFu on XOR: what each compares, and how much of what can be learned each has learned."""
    canvas = Canvas(860, 300, "On XOR CLIP learns nothing, Symile and ConFu learn everything that can be learned")
    canvas.text(30, 34, "c = a xor b: no two of them tell anything, any two tell the third", "title")
    draw_graph(canvas, triangle(110, 150, 48), PAIRS)
    canvas.text(110, 245, "CLIP compares pairs", "middle")
    draw_graph(canvas, fused_triangle(320, 155, 48), FUSED + PAIRS)
    canvas.text(320, 250, "ConFu also fuses two to meet the third", "middle")
    left, wide = 560, 230
    canvas.text(left - 90, 75, "share learned of all that can be learned (exactly known)", "quiet")
    floors = XOR().truth(256).floors
    for number, (name, (loss, key)) in enumerate(MEASURED.items()):
        y = 100 + 56 * number
        best = floors[key]
        span = best.no_information - best.value
        share = (best.no_information - loss) / span if span > 1e-6 else 0.0
        canvas.text(left - 10, y + 20, name, "end title")
        canvas.box(left, y, wide, 30, "none")
        canvas.box(left, y, max(wide * share, 2), 30, "three" if share > 0.5 else "two")
        told = f"{share:.1%}" if span > 1e-6 else "0: pairs hold nothing"
        canvas.text(left + 10, y + 20, told, "onto" if share > 0.5 else "")
    canvas.text(left - 90, 280, "wb synth --task xor   # half a minute", "code quiet")
    return canvas


FIGURE = {
    "first.svg": draw_first,
    "objectives.svg": draw_objectives,
    "sides.svg": draw_sides,
    "positives.svg": draw_positives,
    "floors.svg": draw_floors,
}


def write(files: Mapping[Path, str], command: str) -> int:
    """Write {path: text}; with --check on the command line say which are not so already. Returns the exit code."""
    if "--check" in sys.argv[1:]:
        old = [path.name for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
        if old:
            print(f"not as written: {', '.join(old)}: run `{command}`", file=sys.stderr)
        return int(bool(old))
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def main() -> int:
    return write({FIGURES / name: draw().svg() for name, draw in FIGURE.items()}, "python docs/draw_concepts.py")


if __name__ == "__main__":
    sys.exit(main())
