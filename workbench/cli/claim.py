"""`wb claim`: a sentence of a paper put to the test, registered before its runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli._common import is_quiet
from workbench.cli._completion import complete_claim

if TYPE_CHECKING:
    from workbench.studies.claim import Claim
    from workbench.studies.claiming import Ruling
    from workbench.studies.court import Answer
    from workbench.studies.sweep_runs import SweepRun
    from workbench.studies.sweeping import RunResult


@click.command()
@click.argument("claim", shell_complete=complete_claim)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key in every arm.")
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the runs; default: runs/SWEEP."
)
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once; default: as `wb sweep`.")
@click.option(
    "--seeds", "most", type=click.IntRange(min=1), metavar="N", help="Go no further than so many seeds this time."
)
@click.option("--judge", is_flag=True, help="Rule on the runs that there are; train nothing.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the values that the verdict follows from, and what was registered, there.",
)
@click.option(
    "--from",
    "kept",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Rule on what --keep wrote there; no run is needed.",
)
@click.option("--dry", is_flag=True, help="Say what it would take; train and register nothing.")
@click.option("--json", "as_json", is_flag=True, help='Print {"verdict", "estimate", "low", "high", ...} on stdout.')
def claim_(
    claim: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    jobs: int | None,
    most: int | None,
    judge: bool,
    keep: Path | None,
    kept: Path | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Put CLAIM (a file, or a shipped one) to the test: train its sweep's arms, seed by seed, until it is decided.

    The claim is written down in DIR/claims before the first run. Its verdict (supported, refuted, no effect beyond the
    margin, undecided, blind) may be asked after every seed, and is wrong with probability alpha at most. What is done
    is kept; the same command goes on. Exit codes: 0 there is a verdict, whichever, or it was stopped and has saved;
    1 the runs cannot be compared; 2 the claim, its sweep or a recipe is wrong.

    \b
    Examples: wb claim claims/ito_b2_gap --dry
              wb claim mine.yaml --jobs 2
              wb claim mine.yaml --judge --json
              wb claim mine.yaml --judge --keep findings
              wb claim mine.yaml --from findings
    """
    from workbench.studies.claim import read_claim
    from workbench.studies.kept_values import keep as keep_values

    if sum((dry, judge, kept is not None)) > 1:
        raise click.UsageError("--dry, --judge and --from are three things: choose one")
    if keep and (dry or kept):
        raise click.UsageError(f"--keep writes what runs have found: leave out {'--dry' if dry else '--from'}")
    _refuse_unused({"--jobs": jobs, "--seeds": most, "--run": folder if kept else None}, judge, kept)
    found = read_claim(claim, overrides)
    below = folder or Path("runs") / found.sweep.name
    if dry:
        return _plan(found, below, jobs, most, as_json)
    ruling = _rule(found, below, judge, kept, jobs, most)
    if keep:
        keep_values(found, ruling.values, below, keep)
    if as_json:
        click.echo(json.dumps(ruling.as_dict(), allow_nan=False))
    else:
        print_ruling(ruling)
    return None


def _refuse_unused(options: dict[str, object], judge: bool, kept: Path | None) -> None:
    """Raise UsageError for an option that would change nothing, as nothing is trained, or no run is read."""
    given = [name for name, value in options.items() if value is not None]
    if given and (judge or kept):
        raise click.UsageError(f"{'--from' if kept else '--judge'} trains nothing: leave out {', '.join(given)}")


def _rule(claim: Claim, folder: Path, judge: bool, kept: Path | None, jobs: int | None, most: int | None) -> Ruling:
    from workbench.studies.claiming import prove, rule, rule_on
    from workbench.studies.kept_values import read_kept
    from workbench.studies.registration import read_registration, register

    if kept:
        return rule_on(read_kept(claim, kept), claim, read_registration(claim, kept / f"{claim.file.stem}.json"))
    if judge:
        return rule(claim, folder, register(claim, folder))
    return prove(claim, folder, lambda runs: _train(claim, runs, folder, jobs), most)


def _plan(claim: Claim, folder: Path, jobs: int | None, most: int | None, as_json: bool) -> None:
    from workbench.studies.claiming import list_claim_runs
    from workbench.studies.room import plan, refuse_hopeless
    from workbench.studies.sweeping import find_state, read_result

    seeds = claim.seeds[:most]
    runs = list_claim_runs(claim, folder, seeds)
    refuse_hopeless(runs)
    seconds = [read_result(run, "done").seconds if find_state(run)[0] == "done" else None for run in runs]
    found = plan(runs, seconds, jobs, folder)
    if as_json:
        click.echo(json.dumps({"least_seeds": claim.least, "max_seeds": len(seeds), **found.as_dict()}))
        return
    arms, hours = len(claim.arms), "an unknown time" if found.hours is None else f"about {found.hours:.1f} hours"
    click.echo(f"{claim.section.claim} ({claim.section.source})")
    click.echo(
        f"no verdict before {claim.least} seeds, at alpha {claim.section.alpha:g}; at most {len(seeds)} seeds of "
        f"{arms} arms: {found.runs} runs in {folder}, {found.done} of them done, {hours}"
    )


def _train(claim: Claim, runs: Sequence[SweepRun], folder: Path, jobs: int | None) -> list[RunResult]:
    """Train runs as `wb sweep` does, with its table; Ctrl-C and SIGTERM let them save."""
    from workbench.studies.sweep_report import SweepProgress
    from workbench.studies.sweeping import keep_file, train_runs

    def stop(signum: int, _: object) -> None:
        raise KeyboardInterrupt

    keep_file(claim.sweep, folder)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with SweepProgress(quiet=is_quiet()) as progress:
            return train_runs(runs, jobs, say=progress.say, watch=progress.watch, on_done=progress.on_done)
    finally:
        signal.signal(signal.SIGTERM, before)


def print_ruling(ruling: Ruling) -> None:
    """Print the verdict, the numbers that it follows from, and what a reader has to know of them."""
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli._printing import print_table

    section, judgement = ruling.claim.section, ruling.judgement
    click.echo(f"{section.claim} ({section.source})")
    click.echo(f"{judgement.verdict.upper()}: {judgement.reason}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    head = ("", "metric", "expected", "finding", "estimate", "sequence", "e-value", "seeds")
    for place, column in enumerate(head):
        table.add_column(column, no_wrap=True, justify="right" if place > 3 else "left")
    rows = [("endpoint", one.name, found) for one, found in zip(section.endpoint, judgement.endpoints, strict=True)]
    for kind, answers in (("positive control", judgement.positive), ("negative control", judgement.negative)):
        rows += [(kind, section.endpoint[0].name, found) for found in answers]
    for kind, metric, found in rows:
        table.add_row(kind, *map(escape, _write(metric, found)))
    print_table(table)
    most, level = section.max_seeds, f"{100 * (1 - section.alpha):g} %"
    start = f", from seed {section.first_seed} on" if section.first_seed else ""
    click.echo(
        f"\n{judgement.seeds} of at most {most} seeds{start}; the sequence holds the truth at all of them with {level}"
    )
    click.echo(f"registered {ruling.registration.time}, digest {ruling.registration.digest}")
    for line in (*ruling.registration.remarks, *(f"not counted: {line}" for line in ruling.left_out)):
        click.echo(line)
    if ruling.stopped:
        click.echo("stopped, saved: the same command goes on from there")


def _write(metric: str, found: Answer) -> tuple[str, ...]:
    from workbench.studies.wording import Metric

    write = Metric.parse(metric).write
    unit = Metric.parse(metric).unit
    question = found.question
    margin = f" (± {write(question.margin)})" if question.margin is not None else ""
    bounds = f"{write(found.low, signed=True)} … {write(found.high, signed=True)}" if found.low > -float("inf") else "-"
    estimate = f"{write(found.estimate, signed=True)}{unit}"
    return metric, f"{question}{margin}", found.finding, estimate, bounds, f"{found.e_value:.3g}", str(found.seeds)
