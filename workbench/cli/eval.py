"""`wb eval`: run a run's evaluators on one of its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="A key of the recipe's eval block (repeatable); default: all.",
)
@click.option(
    "--checkpoint", "which", default="last", show_default=True, metavar="best|last|STEP", help="Which checkpoint."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change an evaluator, as eval.retrieval.split=test."
)
@click.option("--json", "as_json", is_flag=True, help='Print {"run", "step", "metrics"}.')
def eval_(run: Path, suites: tuple[str, ...], which: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Evaluate RUN: zero-shot, retrieval, gap, or whatever its recipe names.

    Example: wb eval runs/emoji-ito --checkpoint best --suite concepts
    """
    from workbench.cli._printing import print_evaluations
    from workbench.runs.folder import read_recipe
    from workbench.runs.inference import evaluate_run

    if not read_recipe(run, overrides).eval.evaluators:
        raise ValueError(
            f"{run}: its recipe names no evaluator, so there is nothing to print: "
            "add one, as --set 'eval.retrieval={name: retrieval, split: validation}'"
        )
    step, metrics = evaluate_run(run, which, suites, overrides)
    if as_json:
        click.echo(json.dumps({"run": str(run), "step": step, "metrics": metrics}))
        return
    print_evaluations({"value": metrics}, title=f"{run}, step {step}")
