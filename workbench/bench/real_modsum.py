"""Runs of recipes/real_modsum_*: what each recovered of the nats there are, and of those that its towers can perceive.

    python -m workbench.bench.real_modsum runs/real-modsum-* --out docs/measured/real_modsum.csv

docs/real_modsum.md says what the numbers mean, and how the ceiling is measured (`workbench.studies.perceivers`).
"""

from __future__ import annotations

import datetime
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import click

from synthetic.modsum import ModSum
from workbench.bench import rows
from workbench.build import build_objective
from workbench.evals.held_out_loss import cut, rename
from workbench.recipe.schema import Recipe
from workbench.runs.folder import read_recipe
from workbench.scoring.verdict import recovered
from workbench.studies.perceivers import Seen, calibrate, ceiling_of, perceive
from workbench.training.metrics import read

LABELS = {"image": "written", "speech": "spoken", "text": "sum"}
SPLITS = {"validation": "", "voice": "voice_"}
"""{split: what the names of its evaluators begin with}"""
STEPS = 1500
"""that the perceivers are trained for: no longer training perceived better"""


@dataclass(frozen=True)
class Line:
    """A run on a split. Losses are in nats."""

    objective: str
    seed: int
    split: str
    samples: int
    loss: float
    loss_se: float
    no_information: float
    floor: float
    ceiling: float
    """the least loss with what the perceivers see"""
    recovered: float | None
    """(no_information - loss) / (no_information - floor)"""
    recovered_of_ceiling: float | None
    """(no_information - loss) / (no_information - ceiling)"""
    one_to_one: float
    two_to_one: float
    perceived_image: float
    """accuracy of the perceiver of this modality, held out"""
    perceived_speech: float
    date: str
    versions: str


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV to write.")
@click.option("--steps", default=STEPS, help="Optimizer steps of the perceivers.")
def main(runs: tuple[Path, ...], out: Path, steps: int) -> None:
    """Measure finished RUNS and write a line for each and split."""
    seen: dict[int, dict[str, Seen]] = {}
    lines: list[Line] = []
    for run in sorted(runs):
        recipe = read_recipe(run)
        if recipe.seed not in seen:  # the arms of a seed have one law, the same towers and the same data
            seen[recipe.seed] = perceive(recipe, LABELS, list(SPLITS), steps)
        lines += [measure(run, recipe, split, seen[recipe.seed][split]) for split in SPLITS]
        click.echo(f"{run}: " + ", ".join(f"{x.split} {x.recovered_of_ceiling or 0:.3f}" for x in lines[-2:]), err=True)
    rows.write(lines, out)


def measure(run: Path, recipe: Recipe, split: str, seen: Seen) -> Line:
    """Put a run's last evaluation of a split beside the ceiling on the same batches."""
    records = read(run / "metrics.jsonl")
    facts = {name: x for record in records for name, x in record.items()}
    prefix = SPLITS[split]
    loss, recall = f"eval/{prefix}loss", f"eval/{split}/mean_recall"
    objective = build_objective(recipe)
    law = rename(ModSum(size=10), objective.modalities)
    posteriors = {m: calibrate(seen.logits[m], seen.symbols[m]) for m in LABELS}
    batches = cut(len(seen.symbols["image"]), recipe.train.batch, recipe.seed)
    ceiling = ceiling_of(objective, law, posteriors, batches)
    nothing = facts[f"{loss}/no_information_loss"]
    right = {m: (posteriors[m].argmax(1) == seen.symbols[m]).double().mean().item() for m in LABELS}
    return Line(
        objective=recipe.objective.name,
        seed=recipe.seed,
        split=split,
        samples=records[-1]["samples"],
        loss=facts[f"{loss}/loss"],
        loss_se=facts[f"{loss}/loss_se"],
        no_information=nothing,
        floor=facts[f"{loss}/floor"],
        ceiling=ceiling.loss,
        recovered=facts.get(f"{loss}/recovered"),
        # where even the ceiling tells nothing, a share of it says nothing
        recovered_of_ceiling=recovered(facts[f"{loss}/loss"], ceiling.loss, nothing)
        if facts.get(f"{loss}/recovered") is not None
        else None,
        one_to_one=facts[f"{recall}_1_to_1"],
        two_to_one=facts[f"{recall}_2_to_1"],
        perceived_image=right["image"],
        perceived_speech=right["speech"],
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "timm", "scikit-learn")),
    )


if __name__ == "__main__":
    main()
