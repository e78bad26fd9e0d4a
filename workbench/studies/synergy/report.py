"""The answers for people and for programs: a table, a sentence for each target, a picture, JSON.

The trap: a number without its ceiling says nothing. At a batch of B no critic uses more than ln B nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from matplotlib.figure import Figure
from rich.table import Table

from workbench.figures.glimpses import INK
from workbench.studies.paired import LEVEL
from workbench.studies.synergy.questions import Answer
from workbench.studies.synergy.usable import Interval, Word, margin_of, samples_to_tell

QUIET, GRID = "#6b7280", "#e6e8ec"
COLOURS = {"first": "#8fb3d9", "second": "#5b8fc7", "summed": "#7a6bb0", "fused": "#d9480f"}
ROW = 1.05
"""inches of a question in the picture"""
NEAR = 0.9
"""share of the ceiling from which on there is little room for a gain"""


def as_json(answers: Sequence[Answer]) -> dict[str, object]:
    """Write {target: what was found}; the gain and the word are those of the pair of fields that gains most."""
    targets = {}
    for target, same in _by_target(answers):
        best = greatest_gain(same)
        targets[target] = {
            "single": {name: value._asdict() for answer in same for name, value in answer.single.items()},
            "summed": {answer.question.pair: answer.summed._asdict() for answer in same},
            "fused": {answer.question.pair: answer.fused._asdict() for answer in same},
            "gain": best.gain._asdict() | {"pair": best.question.pair},
            "word": word_of(same),
            "pairs": {answer.question.pair: _details(answer) for answer in same},
        }
    return targets


def _details(answer: Answer) -> dict[str, object]:
    found: dict[str, object] = {
        "shared": answer.shared._asdict(),
        "gain": answer.gain._asdict(),
        "word": answer.word,
        "margin": margin_of(answer.fused),
        "batch": answer.batch,
        "ceiling": answer.ceiling,
        "samples": answer.samples,
        "left_out": answer.left_out,
    }
    return found | ({"exact": answer.exact} if answer.exact else {})


def _by_target(answers: Sequence[Answer]) -> Iterator[tuple[str, list[Answer]]]:
    ordered = sorted(answers, key=lambda answer: answer.question.target)
    found = {target: list(same) for target, same in groupby(ordered, lambda answer: answer.question.target)}
    yield from ((target, found[target]) for target in dict.fromkeys(answer.question.target for answer in answers))


def greatest_gain(answers: Sequence[Answer]) -> Answer:
    return max(answers, key=lambda answer: answer.gain.mean)


def word_of(answers: Sequence[Answer]) -> Word:
    """Say of a target what is true of its pairs: fuse, if one gains; cannot tell, if one may."""
    words: list[Word] = ["fuse", "cannot tell", "pairs are enough"]
    return min((answer.word for answer in answers), key=words.index)


def table(answers: Sequence[Answer]) -> Table:
    """Lay out a line for each question."""
    exact = any(answer.exact for answer in answers)
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    columns = [
        "target",
        "from",
        "each alone",
        "either",
        "sum",
        "fused",
        "gain",
        *(["exact gain"] if exact else []),
        "word",
    ]
    for column in columns:
        drawn.add_column(column, no_wrap=True)
    for answer in answers:
        alone = "\n".join(f"{name} {spell(value)}" for name, value in answer.single.items())
        known = [_exact_gain(answer)] if exact else []
        numbers = [spell(value) for value in (answer.shared, answer.summed, answer.fused, answer.gain)]
        drawn.add_row(answer.question.target, answer.question.pair, alone, *numbers, *known, answer.word)
    return drawn


def _exact_gain(answer: Answer) -> str:
    return f"{answer.exact['gain']:.3f}" if answer.exact and "gain" in answer.exact else "-"


def spell(value: Interval) -> str:
    """Write a mean and its interval."""
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def sentences(answers: Sequence[Answer]) -> Iterator[str]:
    """Say in words what follows for each target."""
    for target, same in _by_target(answers):
        yield _sentence(target, word_of(same), same)


def _sentence(target: str, word: Word, same: Sequence[Answer]) -> str:
    chosen = [answer for answer in same if answer.word == word]
    answer = greatest_gain(chosen)
    pair, gain, margin = answer.question.pair, answer.gain, margin_of(answer.fused)
    if word == "fuse":
        return (
            f"{target}: fuse. {pair} fused tell {gain.low:.2f} to {gain.high:.2f} nats of it that no sum of their "
            f"scores tells (a gain matters from {margin:.2f} on)."
        )
    if word == "pairs are enough":
        if answer.fused.high < margin:
            return (
                f"{target}: pairs are enough, as the critics find nothing to use, fused or not: at most "
                f"{answer.fused.high:.2f} nats. A dependence that takes a trained tower to see is not found so: ask "
                "again of what `wb embed` writes of your own towers."
            )
        said = f"{target}: pairs are enough. Fusing adds at most {gain.high:.2f} nats, below {margin:.2f}"
        full = answer.summed.mean > NEAR * answer.ceiling
        return said + ("; the sum is near the ceiling ln B, and a larger --batch may show more." if full else ".")
    needed = samples_to_tell(gain, margin, answer.samples)
    more = f"about {needed:,} might tell" if needed else "it would take very many more"
    return (
        f"{target}: cannot tell with {answer.samples:,} samples. {pair} gain {gain.low:.2f} to {gain.high:.2f} nats, "
        f"and {margin:.2f} would matter; {more}."
    )


def presets(answers: Sequence[Answer]) -> Table:
    """Say of the shipped objectives which can use what is there."""
    words = [answer.word for answer in answers]
    pairs = max(value.low for answer in answers for value in answer.single.values())
    gain = max((answer.gain for answer in answers), key=lambda gain: gain.mean)
    fused = "yes" if "fuse" in words else "perhaps" if "cannot tell" in words else "nothing more to use"
    fields = {name for answer in answers for name in answer.question}
    lines = [
        ("clip, siglip, hub", "pairs of fields", "yes" if pairs > 0 else "nothing to use", f"at least {pairs:.2f}"),
        ("confu, symile", "and two fused for a third", fused, spell(gain)),
    ]
    if len(fields) > 3:
        lines.append(("confu_chain", "and three or more fused", fused, "more than two were not measured"))
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    for column in ("preset", "uses", "here", "nats, the most of any target"):
        drawn.add_column(column, no_wrap=True)
    for line in lines:
        drawn.add_row(*line)
    return drawn


def draw(answers: Sequence[Answer], title: str) -> Figure:
    """Draw a bar with its interval for each critic of each question, exact values as ticks where they are known."""
    figure = Figure(figsize=(9.5, 1.3 + ROW * len(answers)), dpi=130, layout="constrained")
    axes = figure.subplots()
    for place, answer in enumerate(answers):
        _, first, second = answer.question
        bars = {"first": answer.single[first], "second": answer.single[second]}
        bars |= {"summed": answer.summed, "fused": answer.fused}
        names = {"first": first, "second": second, "summed": "sum of scores", "fused": "fused"}
        for row, (key, value) in enumerate(bars.items()):
            y = place + (row - 1.5) * 0.2
            axes.barh(y, value.mean, 0.17, color=COLOURS[key])
            axes.plot([value.low, value.high], [y, y], color=INK, lw=1.2)
            axes.text(value.high, y, f"  {names[key]}", va="center", fontsize=7.5, color=QUIET, parse_math=False)
            known = (answer.exact or {}).get({"first": first, "second": second}.get(key, key))
            if known is not None:
                axes.plot([known, known], [y - 0.09, y + 0.09], color="black", lw=2)
        gain = f"gain {spell(answer.gain)}: {answer.word}"
        axes.text(1, place - 0.47, gain, transform=axes.get_yaxis_transform(), fontsize=8.5, color=INK, ha="right")
    ceiling = max(answer.ceiling for answer in answers)
    highest = max(value.high for answer in answers for value in (*answer.single.values(), answer.summed, answer.fused))
    axes.set_xlim(0, min(ceiling, max(1.4 * highest, 0.1)) * 1.12)
    axes.axvline(ceiling, color=QUIET, lw=1, ls=":")
    labels = [f"{answer.question.pair}\n→ {answer.question.target}" for answer in answers]
    axes.set_yticks(range(len(answers)), labels, fontsize=9)
    axes.set_ylim(len(answers) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    exact = " · black ticks: exact" if any(answer.exact for answer in answers) else ""
    axes.set_xlabel(
        f"usable nats, {LEVEL:.0%} intervals · ceiling ln B = {ceiling:.2f}{exact}", color=QUIET, fontsize=9
    )
    axes.set_title(title, loc="left", fontsize=11, color=INK, parse_math=False)
    return figure
