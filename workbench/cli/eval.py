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

    Example: wb eval runs/emoji-ito --checkpoint best --set eval.retrieval.split=test
    """
    from workbench.runs.inference import evaluate_run

    step, metrics = evaluate_run(run, which, suites, overrides)
    if as_json:
        click.echo(json.dumps({"run": str(run), "step": step, "metrics": metrics}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{run}, step {step}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
