"""`wb export`: a run as a folder for open_clip, transformers, ONNX or safetensors, verified there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from workbench.cli._completion import complete_run

if TYPE_CHECKING:
    from workbench.export.report import Report


@click.command(short_help="Write a run for another client, verified there.")
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_run)
@click.option(
    "--format",
    "format_",
    required=True,
    type=click.Choice(["open_clip", "transformers", "onnx", "safetensors"]),
    help="Who is to load it.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A folder that is not there, or empty."
)
@click.option("--checkpoint", default="last", show_default=True, metavar="best|last|STEP", help="Which one of the run.")
@click.option("--licence", metavar="NAME", help="Of the weights, for the model card: apache-2.0.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def export_(
    run: Path,
    format_: Literal["open_clip", "transformers", "onnx", "safetensors"],
    out: Path,
    checkpoint: str,
    licence: str | None,
    as_json: bool,
) -> None:
    """Write RUN into a folder that another program loads, with a model card.

    Before the folder appears it is loaded in that program, and embeddings of the run's own validation items are
    compared: a difference above 1e-5 is an error and leaves nothing. What a format has no place for is refused by
    name. A fusion that only helped training is left out; one that stays (ConFu) is written by onnx and safetensors.
    `workbench.load` reads every export.

    \b
    Examples:
      wb export runs/emoji-ito --format transformers --out emoji-clip
      wb export runs/confu --format onnx --checkpoint best --out confu-onnx
    \b
    Exit codes: 0 written and verified; 1 refused, not equal, or not
    writable; 2 a wrong option or recipe.
    """
    from workbench.export.exporting import export

    report = export(run, format_, out, checkpoint, licence)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        _print_report(report)


def _print_report(report: Report) -> None:
    click.echo(f"{report.run}, step {report.step} -> {report.out} ({report.format})")
    for line in report.dropped:
        click.echo(f"  left out: {line}")
    sides = ", ".join(f"{side} {x:.1g}" for side, x in report.differences.items())
    click.echo(
        f"  verified in {report.package} {report.version} on {report.items} items of each kind from {report.samples}"
    )
    click.echo(f"  largest difference from the run: {report.largest:.1g} ({sides}); 1e-05 is allowed")
    for side, x in report.prepared.items():
        if x > 1e-5:
            click.echo(f"  as {report.package} itself prepares {side} items: {x:.1g}")
    click.echo(f"  files: {', '.join(report.files)}")
