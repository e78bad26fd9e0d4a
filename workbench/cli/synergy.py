"""`wb synergy`: will fusing help? Nats that two fields tell of a third only together, before any long training."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from workbench.cli._common import show_progress
from workbench.cli._completion import complete_task_or_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workbench.studies.synergy.questions import Answer
    from workbench.studies.synergy.samples import Numbers

T = TypeVar("T")


@click.command(short_help="Measure whether fusing two fields helps to tell a third.")
@click.argument("data", shell_complete=complete_task_or_file)
@click.option("--target", "targets", multiple=True, metavar="NAME", help="A field, or a label, that is told.")
@click.option("--field", "fields", multiple=True, metavar="NAME", help="Read this one (repeatable); default: all.")
@click.option("--batch", type=click.IntRange(min=2), metavar="B", help="Candidates; default: up to 256.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Rows at most; default: 10,000.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(3, 20), help="Parts held out, a seed each.")
@click.option("--seed", default=0, show_default=True, help="Of samples, parts and initial weights.")
@click.option("--split", default="train", show_default=True, help="Which rows: train, or a split that is held out.")
@click.option("--source", metavar="NAME", help="What lies at DATA, where that cannot be told.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key of the data, or of a task: bits=5.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes; default: the number of cores.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the nats (PNG, PDF, SVG).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def synergy_(
    data: str,
    targets: tuple[str, ...],
    fields: tuple[str, ...],
    batch: int | None,
    samples: int | None,
    seeds: int,
    seed: int,
    split: str,
    source: str | None,
    settings: tuple[str, ...],
    jobs: int | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Say whether fusing two fields of DATA helps to tell a third, before a long training.

    DATA is what `wb data inspect` takes, a file of `wb embed`, or the name of a synthetic task. For each target, each
    two other fields: small critics read each alone, both as a sum of two scores, and both fused. What each uses on
    samples that it never saw is given in nats, with intervals over held-out parts and seeds, and a word: fuse, pairs
    are enough, or cannot tell.

    \b
    Examples:
      wb synergy films.yaml --plot films.png
      wb synergy features.parquet --target speech
      wb synergy image-text-xor --target sum
    Exit codes: 0 whatever the word is, 1 where nothing can be
    measured, as of too few samples, 2 for a wrong option.
    """
    from workbench.studies.synergy.questions import Study, ask_about
    from workbench.studies.synergy.report import as_json as as_tree
    from workbench.studies.synergy.report import draw
    from workbench.studies.synergy.samples import read

    if plot and plot.suffix not in (".png", ".pdf", ".svg"):  # said now, not after minutes
        raise click.UsageError(f"--plot {plot}: draws .png, .pdf or .svg")
    numbers = _with_a_bar(
        "reading",
        lambda tell: read(
            data, source, settings, split=split, samples=samples, seed=seed, fields=fields, targets=targets, tell=tell
        ),
    )
    study = Study(numbers, ask_about(numbers, targets), batch, seeds, seed)
    answers = _with_a_bar("training critics", lambda tell: study.answer(jobs or os.cpu_count() or 1, tell))
    if plot:
        plot.parent.mkdir(parents=True, exist_ok=True)
        draw(answers, f"{data}: what fields tell of one another, {answers[0].samples:,} samples").savefig(plot)
    if as_json:
        click.echo(json.dumps({"data": data, "targets": as_tree(answers), "bad": len(numbers.bad), "seed": seed}))
    else:
        _print_answers(data, numbers, answers)


def _with_a_bar(doing: str, work: Callable[[Callable[[int, int], None]], T]) -> T:
    """Do the work with a progress bar on stderr."""
    with show_progress(doing) as show:
        return work(show)


def _print_answers(data: str, numbers: Numbers, answers: Sequence[Answer]) -> None:
    from workbench.cli._printing import print_table
    from workbench.studies.synergy.report import presets, sentences, table

    have = ", ".join(f"{name} {int(there.sum()):,}" for name, there in numbers.present.items())
    click.echo(f"{data}: {len(numbers.ids):,} of {numbers.rows:,} rows, which have {have}")
    if numbers.bad:
        click.echo(f"  bad, left out: {len(numbers.bad):,}, as {numbers.bad[0]}")
    for members, left_out in {frozenset(a.question): a.left_out for a in answers if a.left_out}.items():
        click.echo(f"  rows that lack one of {', '.join(sorted(members))}, left out: {left_out:,}")
    batches = sorted({answer.batch for answer in answers})
    ceilings = ", ".join(f"{batch} (at most {math.log(batch):.2f} nats)" for batch in batches)
    click.echo(f"  usable nats at a batch of {ceilings}; 95 % intervals over held-out parts and seeds\n")
    print_table(table(answers))
    click.echo()
    for sentence in sentences(answers):
        click.echo(sentence)
    click.echo()
    print_table(presets(answers))
