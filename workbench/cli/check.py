"""`wb check`: validate recipes to the last shape, without holding weights, and with a glance at the data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from workbench.cli._common import note
from workbench.cli._completion import complete_recipe_or_sweep

if TYPE_CHECKING:
    from workbench.build import Parts
    from workbench.recipe.schema import Recipe
    from workbench.runs.overfit import Overfit


UNSEEN = (
    "not looked at: most samples (wb data inspect), the memory and time of a step (wb pretrain --dry), "
    "gradients and several processes (wb check --deep), whether a batch can be learnt (wb check --overfit), "
    "weights that a run or a file would give"
)


@click.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...", shell_complete=complete_recipe_or_sweep)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as train.lr=1e-3.")
@click.option("--deep", is_flag=True, help="Also compute: does the gradient stay the same where it has to? Reads data.")
@click.option("--overfit", is_flag=True, help="Also train on one batch for a minute: does the loss fall? If not, why?")
@click.option("--json", "as_json", is_flag=True, help="Print {recipe: null or its errors}; --overfit: both.")
def check_(recipes: tuple[str, ...], overrides: tuple[str, ...], deep: bool, overfit: bool, as_json: bool) -> None:
    """Validate recipes and sweeps; every mistake is printed with file and line.

    --deep takes one batch of a few samples, and compares its gradient with that of the same samples in another order,
    in micro-batches, and on two processes, and embeddings with those of fewer samples: for objectives, encoders and
    fusions of your own. It takes half a minute.

    --overfit learns one batch by heart, from the recipe's own initial weights: it prints the loss of knowing nothing
    (ln B of an InfoNCE term) and the least that the batch allows beside the loss, and where that does not fall the
    likeliest reason: the learning rate (a range test names one), what is frozen, repeated, constant or no number.
    With --json each recipe has {error, overfit}.

    Exit codes: 0 sound; 1 a file cannot be read; 2 a mistake, a gradient that changes, or a loss that does not fall.

    \b
    Example: wb check recipes/emoji_ito.yaml --set train.batch=512
             wb check mine.yaml --deep
             wb check mine.yaml --overfit
    """
    from workbench.recipe.schema import RecipeError, load_recipe
    from workbench.runs.cost import assemble
    from workbench.studies.sweep import is_sweep

    found: dict[str, str | None] = {}
    notes: list[str] = []
    learnt: dict[str, Overfit] = {}
    for recipe in recipes:
        try:
            if is_sweep(recipe):
                found[recipe] = _check_sweep(recipe, overrides)
                continue
            loaded = load_recipe(recipe, overrides)
        except RecipeError as error:  # has the file and the line
            found[recipe] = str(error)
            continue
        try:
            parts = assemble(loaded)
            notes += _notes(recipe, parts)
            _refuse_terms_apart(parts, notes)
            found[recipe] = _deeply(recipe, loaded) if deep else None
            if overfit:
                learnt[recipe] = _learn(recipe, loaded)
                found[recipe] = found[recipe] or _complaint(recipe, learnt[recipe])
        except ValueError as error:  # the keys are right, the parts do not fit each other
            found[recipe] = f"{recipe}: {error}"
    if as_json and overfit:
        both = {r: {"error": e, "overfit": learnt[r].as_dict() if r in learnt else None} for r, e in found.items()}
        click.echo(json.dumps(both))
    elif as_json:
        click.echo(json.dumps(found))
    else:
        for recipe, report in learnt.items():
            _print_overfit(recipe, report)
        for recipe, problem in found.items():
            click.echo(problem or f"{recipe}: ok", err=problem is not None)
        for line in [*notes, *([] if deep or overfit else [UNSEEN])]:
            note(line)
    raise SystemExit(2 if any(found.values()) else 0)


def _check_sweep(path: str, overrides: tuple[str, ...]) -> str | None:
    """Return what is wrong with the arms of a sweep, None where nothing is. Raises RecipeError for its keys."""
    from workbench.studies.room import refuse_hopeless
    from workbench.studies.sweep import read_sweep

    sweep = read_sweep(path, overrides)
    try:
        refuse_hopeless(sweep.runs(seeds=sweep.seeds[:1]))
    except ValueError as error:
        return "\n".join(f"{path}: {line}" for line in str(error).splitlines())
    return None


def _notes(name: str, parts: Parts) -> list[str]:
    """Say what is no mistake of a recipe, and stops or disappoints a training all the same: a line each."""
    from workbench.inspection.cut_captions import cut_captions
    from workbench.runs.cost import missing_data

    recipe = parts.recipe
    lines: list[str] = []
    try:
        stops = missing_data(recipe, parts.data)
        if not stops:
            lines += [f"{name}: {line}" for line in cut_captions(parts.data, parts.model.encoders)]
    except ValueError as error:  # the data is there and cannot be listed
        stops = str(error)
    if stops:
        lines.append(f"{name}: a training would stop at once: {stops}")
    if not recipe.eval.evaluators:
        lines.append(f"{name}: no evaluator: the loss is all that a training would say of the model")
    return lines


def _refuse_terms_apart(parts: Parts, notes: list[str]) -> None:
    """Raise ValueError for a term whose sides no sample has together, where the data are there and small; of a stream,
    whose beginning lacks them, a note says so."""
    from workbench.inspection.cut_captions import is_small
    from workbench.runs.cost import missing_data
    from workbench.runs.meeting import refuse_terms_apart

    try:
        if missing_data(parts.recipe, parts.data) or not is_small(parts.data, copied=True):
            return
        _ = len(parts.data), parts.data.modalities
    except ValueError:  # said in the notes: the data is there and cannot be listed
        return
    refuse_terms_apart(parts.objective, parts.data, notes.append)


def _deeply(name: str, recipe: Recipe) -> str | None:
    """Return what a deep check complains of, None where it does not; what it did is told on stderr."""
    from workbench.runs.deep_check import TOLERANCE, check_deeply

    findings = check_deeply(recipe)
    for finding in findings:
        value = "-" if finding.difference is None else f"{finding.difference:.1e}"
        click.echo(f"{name}: {finding.name:14} {value:>8}  {finding.note or 'the same'}", err=True)
    failed = [f"{f.name} ({f.difference:.1e}): {f.note}" for f in findings if not f.passed]
    return f"{name}: not the same within {TOLERANCE:.0e}: " + "; ".join(failed) if failed else None


def _learn(name: str, recipe: Recipe) -> Overfit:
    """Train on one batch; a line on stderr says so, as it takes a while."""
    from workbench.runs.overfit import overfit

    note(f"{name}: learning one batch by heart, a minute at most")
    return overfit(recipe)


def _complaint(name: str, report: Overfit) -> str | None:
    """Say that a batch was not learnt, and why; None where it was."""
    return None if report.falls else f"{name}: the loss of one batch does not fall: {report.reasons[0]}"


def _print_overfit(name: str, report: Overfit) -> None:
    """Print chance, floor and loss of every term, and what follows."""
    from rich.table import Table

    from workbench.cli._printing import print_table

    cut = "" if report.rows == report.of_rows else f" of the {report.of_rows}"
    click.echo(
        f"{name}: one batch of {report.rows}{cut} samples, {report.steps} steps at lr {report.lr:g}, "
        f"{report.seconds:.0f} s; no dropout, no augmentation"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("term", no_wrap=True)
    for title in ("chance", "floor", "first", "last"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for term in report.terms:
        bounds = ("-" if x is None else f"{x:.3f}" for x in (term.chance, term.floor))
        share = "" if term.share is None else f"{100 * max(term.share, 0):.0f} % of the way"
        table.add_row(term.name, *bounds, f"{term.first:.3f}", f"{term.last:.3f}", share)
    print_table(table)
    if report.tried:
        found = ", ".join(f"{loss:.3f} at {lr:g}" for lr, loss in report.tried.items())
        click.echo(f"after as many steps at other learning rates: {found}")
    for reason in report.reasons if report.falls else report.reasons[1:]:
        click.echo(f"also: {reason}")
    if report.falls:
        click.echo(
            "it falls: model, objective and learning rate can learn a batch by heart. Where a training does not get "
            "better on held-out samples, look at the data (wb data inspect): are these pairs, and enough of them?"
        )
