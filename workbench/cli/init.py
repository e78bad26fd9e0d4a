"""`wb init`: a look at data of which nothing is known, and a commented recipe that trains on it at once."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli._common import note, show_progress
from workbench.cli._completion import complete_file

if TYPE_CHECKING:
    from workbench.inspection.first_recipe import Synergy
    from workbench.recipe.schema import Recipe

SAMPLES = 2560
"""that --synergy looks at, at most: a batch of 128, and about twenty seconds of a core a question"""


@click.command(short_help="Write a first recipe for your own data.")
@click.argument("data", shell_complete=complete_file)
@click.option(
    "--out",
    default="recipe.yaml",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The recipe; it must not be there.",
)
@click.option("--source", metavar="NAME", help="What lies at DATA, where that cannot be told; of a hub id: hf.")
@click.option(
    "--synergy",
    "asked",
    is_flag=True,
    help=f"With three fields or more: choose by what `wb synergy` says of {SAMPLES:,} samples, in minutes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def init_(data: str, out: Path, source: str | None, asked: bool, as_json: bool) -> None:
    """Look at DATA, and write a commented recipe that trains on it at once.

    DATA is a folder of pictures with texts beside them, a CSV, TSV, JSON or parquet file, tars, or what `datasets`
    saved. Up to a thousand samples are decoded: fields, kinds, sizes, scripts, what repeats, what is missing and
    which columns are labels. The objective, the towers, the batch and the steps are chosen by that and by the
    machine, each with its reason in a comment. Nothing is overwritten.

    \b
    Examples: wb init photos
              wb init films.csv --out films.yaml --synergy
    Exit codes: 0 written, 1 nothing there can be trained on,
    2 a wrong option, or a recipe that is there already.
    """
    if out.exists():
        raise click.UsageError(f"{out} is there already, and is not overwritten: choose another --out")
    if out.suffix not in (".yaml", ".yml"):
        raise click.UsageError(f"--out {out}: write a name that ends in .yaml")
    from workbench.errors import did_you_mean, writing
    from workbench.inspection.first_look import look_at
    from workbench.inspection.first_recipe import CPU, GPU, describe_facts, write_recipe
    from workbench.inspection.open_data import SOURCES

    if source and source not in SOURCES:
        raise click.UsageError(f"no source '{source}'{did_you_mean(source, SOURCES)}")
    import torch

    note(f"{data}: looking at up to 1,000 samples")
    facts = look_at(data, source)
    if out.resolve().parent != Path.cwd():
        _see_from(out.parent, facts.block)
    name = re.sub(r"[^\w-]+", "-", Path(data).stem.strip("*").strip(".") or "mine").strip("-").lower() or "mine"
    machine = GPU if torch.cuda.is_available() else CPU
    text, choice = write_recipe(name, facts, machine, f"wb pretrain {out}")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    try:
        synergy = _ask_synergy(out, len(facts.kinds)) if asked else None
    except BaseException:  # Ctrl-C, too: the same command can be given again
        out.unlink(missing_ok=True)
        raise
    if synergy:
        text, choice = write_recipe(name, facts, machine, f"wb pretrain {out}", synergy)
        with writing(out):
            out.write_text(text, encoding="utf-8")
    recipe = _verify(out)
    commands = _commands(out, choice.name, synergy is not None)
    if as_json:
        found = {"out": str(out), "objective": choice.name, "why": choice.why, "machine": machine.name}
        told = {"synergy": synergy and synergy._asdict()}
        facts_of_it = {"fields": facts.kinds, "data": facts.block, "notes": facts.notes, "scripts": facts.scripts}
        click.echo(json.dumps({**found, **told, **facts_of_it, "next": commands, "found": facts.found.as_dict()}))
        return
    for line in [*describe_facts(facts), *(f"note: {word}" for word in facts.notes)]:
        click.echo(line)
    click.echo(f"objective: {choice.name}, as {choice.why}")
    train = recipe.train
    click.echo(f"{out} trains for {train.for_} with batches of {train.batch} on {machine.name}. Next:")
    for command in commands:
        click.echo(f"  {command}")


def _ask_synergy(recipe: Path, fields: int) -> Synergy | None:
    """Ask of the recipe's data whether fusing helps; None, with a note why, where that cannot be measured."""
    from workbench.inspection.first_recipe import Synergy

    if fields < 3:
        note(f"--synergy: whether two fields help to tell a third takes three, and these data have {fields}")
        return None
    from workbench.studies.synergy.questions import Study, ask_about
    from workbench.studies.synergy.report import sentences, word_of
    from workbench.studies.synergy.samples import read

    try:
        with show_progress("reading") as tell:
            numbers = read(str(recipe), None, (), samples=SAMPLES, tell=tell)
        with show_progress("training critics, which say whether fusing helps") as tell:
            answers = Study(numbers, ask_about(numbers, ()), parts=3).answer(os.cpu_count() or 1, tell)
    except ValueError as error:
        note(f"--synergy: {error}; the objective is chosen without it (`wb synergy {recipe}` has these options)")
        return None
    return Synergy(word_of(answers), list(sentences(answers)), max(answer.samples for answer in answers))


def _see_from(folder: Path, block: dict[str, Any]) -> None:
    """Write the paths of what is there as they are seen from the recipe's folder."""
    from workbench.loading.paths import as_tuple

    for key in ("path", "validation"):
        paths = block.get(key, [])
        seen = [os.path.relpath(path, folder) if _is_here(path) else path for path in as_tuple(paths)]
        if paths:
            block[key] = seen[0] if isinstance(paths, str) else seen


def _is_here(pattern: str) -> bool:
    """Tell whether a path, which may be a glob, is that of something in the current folder."""
    parts = Path(pattern).parts
    return bool(parts) and not Path(pattern).is_absolute() and Path(parts[0]).exists()


def _verify(out: Path) -> Recipe:
    """Check the recipe as `wb check` does. Raises ValueError, with the recipe left where it is, where it does not
    pass: a person mends a line sooner than writing all of them."""
    from workbench.recipe.schema import load_recipe
    from workbench.runs.cost import assemble

    recipe = load_recipe(out)
    try:
        assemble(recipe)
    except ValueError as error:
        raise ValueError(f"{out} was written, and needs a change: {error}") from None
    return recipe


def _commands(out: Path, objective: str, asked: bool) -> list[str]:
    """List the next three commands; `asked`: whether fusing helps is known already."""
    fuses = objective in ("confu", "confu_chain") and not asked
    look = f"wb synergy {out}" if fuses else f"wb data inspect {out} --sheet {out.with_suffix('.png')}"
    return [f"wb check {out} --overfit", look, f"wb pretrain {out}"]
