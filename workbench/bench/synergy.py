"""How often the intervals of `wb synergy` hold the exact value, on synthetic tasks whose usable nats are known.

Every repetition draws new samples and trains every critic anew. What is held against an interval is what the best
critic of the same form uses at the same batch: exact optima of the synthetic tasks, with their duplicate candidates.

The trap: five intervals of one repetition stand on the same samples, so they are no five independent trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click

from workbench.bench.rows import markdown, read, write

SAMPLES = 2560
TASKS: dict[str, tuple[str, ...]] = {
    "xor": (),
    "redundancy": (),
    "image-text-xor": (),
    "and": (),
    "distractor": (),
    "hub": ("paired=true",),
    "image-text-match": (),
    "latent-synergy": (),
    "m3-lite": (),
    "missing": (),
    "modsum": (),
    "parity": (),
    "pid-gaussian": (),
    "synergy": (),
    "trifeature": ("values=3",),
    "uniqueness": (),
    "xor-flip": (),
}
"""{task: its settings}; hub shows all three together here, and trifeature has so many kinds as its samples can show"""
HEAD = ("task", "question", "runs", "exact gain", "gain found, mean interval", "held: each, sum, fused, gain", "word")


@dataclass(frozen=True)
class Measured:
    """A line of the CSV: one interval of one repetition."""

    task: str
    repetition: int
    target: str
    pair: str
    samples: int
    batch: int
    critic: str
    """first, second, summed, fused or gain"""
    exact: float | None
    mean: float
    low: float
    high: float
    word: str

    @property
    def held(self) -> bool | None:
        """Say whether the interval holds the exact value; None where none is known."""
        # the CSV keeps four decimal places
        return None if self.exact is None else self.low - 1e-4 <= self.exact <= self.high + 1e-4


def measure(task: str, repetition: int) -> list[Measured]:
    """Ask one question of a task on new samples, in this process."""
    from workbench.studies.synergy.questions import Study, ask_about
    from workbench.studies.synergy.samples import open_task
    from workbench.studies.synergy.samples import read as read_samples

    numbers = read_samples(task, settings=TASKS[task], samples=SAMPLES, seed=repetition)
    question = ask_about(numbers, [open_task(task, TASKS[task]).target])[0]
    (answer,) = Study(numbers, [question], seed=repetition).answer()
    first, second = answer.single.values()
    found = {"first": first, "second": second, "summed": answer.summed, "fused": answer.fused, "gain": answer.gain}
    names = {"first": question.first, "second": question.second}
    rows = []
    for critic, (mean, low, high) in found.items():
        exact = (answer.exact or {}).get(names.get(critic, critic))
        asked = (task, repetition, question.target, question.pair, answer.samples, answer.batch)
        rows.append(Measured(*asked, critic, exact, mean, low, high, answer.word))
    return rows


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each task, and the share of intervals that hold the exact value."""
    lines = [_line(list(same)) for _, same in groupby(sorted(rows, key=lambda row: row.task), lambda row: row.task)]
    held = [row.held for row in rows if row.held is not None]
    return f"{markdown(HEAD, lines)}\n\n{sum(held)} of {len(held)} intervals hold the exact value."


def _line(same: Sequence[Measured]) -> list[str]:
    gains = [row for row in same if row.critic == "gain"]
    low, mean, high = (sum(getattr(row, name) for row in gains) / len(gains) for name in ("low", "mean", "high"))
    exact = "-" if gains[0].exact is None else f"{gains[0].exact:.3f}"
    words = [row.word for row in gains]
    said = " · ".join(
        word if (n := words.count(word)) == len(words) else f"{word} {n}" for word in dict.fromkeys(words)
    )
    question = f"{gains[0].pair} → {gains[0].target}"
    return [same[0].task, question, str(len(gains)), exact, f"{mean:.3f} [{low:.3f}, {high:.3f}]", _held(same), said]


def _held(same: Sequence[Measured]) -> str:
    """Count how many intervals of each critic hold the exact value; both fields alone are counted together."""
    if same[0].held is None:
        return "no exact value"

    def count(*critics: str) -> str:
        chosen = [row.held for row in same if row.critic in critics]
        return f"{sum(map(bool, chosen))}/{len(chosen)}"

    return ", ".join((count("first", "second"), count("summed"), count("fused"), count("gain")))


def missing(rows: Sequence[Measured], repetitions: int, tasks: Sequence[str]) -> Iterator[tuple[str, int]]:
    """List (task, repetition) that were not measured yet, all tasks of a repetition before the next."""
    done = {(row.task, row.repetition) for row in rows}
    wanted = ((task, repetition) for repetition in range(repetitions) for task in tasks)
    yield from (key for key in wanted if key not in done)


@click.command()
@click.option("--out", default="runs/synergy.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--repetitions", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="Repeatable; default: all 17.")
def main(out: Path, repetitions: int, tasks: tuple[str, ...]) -> None:
    """Measure what OUT does not have yet, and print a table. Minutes of one core for a repetition."""
    rows = read(out, Measured)
    for task, repetition in list(missing(rows, repetitions, tasks or list(TASKS))):
        rows += measure(task, repetition)
        write(rows, out)
        held = [row.held for row in rows[-5:] if row.held is not None]
        click.echo(f"{task}, repetition {repetition}: {sum(held)} of {len(held)} held, {rows[-1].word}", err=True)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
