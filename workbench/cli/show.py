"""`wb show`: what a component takes, what is true of a task, what a recipe resolves to, how a run went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from workbench.cli._completion import list_recipes, list_runs, offer
from workbench.cli.ls import KINDS, singular

if TYPE_CHECKING:
    from synthetic.theory.task import Task
    from workbench.recipe.component import Spec
    from workbench.recipe.documentation import Block, Documentation
    from workbench.recipe.schema import Recipe
    from workbench.recipe.yaml_file import Tree


def list_names(ctx: click.Context) -> list[str]:
    """List the names of the kind that stands before, for a shell's completion."""
    from workbench.recipe.component import names

    kind = singular(str(ctx.params.get("kind", "")))
    if kind == "recipe":
        return list_recipes(ctx)
    return list_runs(ctx) if kind == "run" else names(kind)


@click.command()
@click.argument("kind", shell_complete=offer(lambda _: KINDS))
@click.argument("name", shell_complete=offer(list_names, "file"))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="An option of a task (bits=5), or a key of a recipe."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def show_(kind: str, name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show an encoder, fusion, objective, data, eval or callback (its documentation), a task (its truth), a recipe or a
    run.

    Exit codes: 0 shown; 1 it is no run; 2 no such kind or name, or a wrong key.

    \b
    Examples: wb show objective ito
              wb show task xor --set bits=5
              wb show recipe synth/confu.yaml
              wb show run runs/emoji-ito
    """
    kind = singular(kind)
    if overrides and kind not in ("task", "recipe"):
        raise click.UsageError(f"--set changes a task or a recipe, not {kind} '{name}'")
    if kind == "recipe":
        _show_recipe(name, overrides, as_json)
    elif kind == "run":
        _show_run(Path(name), as_json)
    else:
        _show_component(kind, name, overrides, as_json)


def _show_component(kind: str, name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from workbench.errors import did_you_mean
    from workbench.recipe.component import names
    from workbench.recipe.documentation import document

    if ":" not in name and name not in names(kind):
        raise click.UsageError(f"no {kind} named '{name}'{did_you_mean(name, names(kind))}")
    found = document(kind, name)
    truth = _truth(name, overrides) if kind == "task" else None
    if as_json:
        click.echo(json.dumps(found.as_dict() | ({"truth": truth} if truth else {})))
        return
    _print_component(found)
    if truth:
        click.echo("\n" + _as_yaml({"truth": round_numbers(truth)}))


def _truth(name: str, overrides: tuple[str, ...]) -> Tree:
    """Compute everything known of a task with these options. Raises RecipeError."""
    from pydantic import ValidationError

    from workbench.recipe.component import validate
    from workbench.recipe.yaml_file import RecipeError, apply_override

    tree: Tree = {"name": name}
    for override in overrides:
        tree = apply_override(tree, {}, override)
    try:
        task = cast("Spec[Task]", validate("task", tree)).build()
        return task.truth().as_dict()
    except ValidationError as error:
        lines = (f"--set {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("\n".join(lines)) from None
    except ValueError as error:
        raise RecipeError(f"task {name}: {error}") from None


def _print_component(found: Documentation) -> None:
    click.echo(f"{found.kind} {found.name}  ({found.file})\n\n{found.block.text}")
    _print_keywords(found.block)
    for name, block in found.inner.items():
        click.echo(f"\n{name}: {block.text}")
        _print_keywords(block)
    click.echo(f"\nIn a recipe, at its defaults:\n\n{_indented(found.example(), '  ')}")


def _print_keywords(block: Block) -> None:
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli._printing import print_table

    if not block.keywords:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, fold in (("keyword", False), ("type", True), ("default", True), ("meaning", True)):
        table.add_column(column, no_wrap=not fold)
    for k in block.keywords:
        table.add_row(k.name, escape(k.type), escape(_inline(round_numbers(k.default))), escape(k.description))
    click.echo()
    print_table(table, wrap=True)


def _show_recipe(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from workbench.recipe.schema import load_recipe

    recipe = load_recipe(name, overrides)
    terms = expand(recipe)
    if as_json:
        click.echo(json.dumps({"recipe": recipe.as_dict(), "as_terms": terms}))
        return
    click.echo(recipe.as_yaml(), nl=False)
    if terms:
        rest = _as_yaml({key: value for key, value in terms.items() if key not in ("name", "terms")})
        lines = [f"objective {recipe.objective.name} is short for", "", "objective:", "  name: terms", "  terms:"]
        each = terms["terms"]
        assert isinstance(each, list)
        lines += [f"    - {_inline(term)}" for term in each]
        click.echo("\n" + _indented("\n".join([*lines, _indented(rest, "  ")]), "# "))


def expand(recipe: Recipe) -> Tree | None:
    """Write the objective as a block `{name: terms, ...}` that trains the same; None where it is no sum of terms, or is
    written as one. Raises ValueError when the objective does not fit the model."""
    from workbench.terms import Terms

    objective = recipe.objective.build(tuple(recipe.model.encoders))
    if not isinstance(objective, Terms) or recipe.objective.name == "terms":
        return None
    terms: list[Tree] = []
    for term in objective.terms:
        default = "pairwise" if not term.is_self else "mean" if term.loss == "sigmoid" else "each"
        shown: Tree = {"between": list(term.between), "loss": term.loss, "positives": term.positives or default}
        terms.append(shown | {"weight": term.weight} | term.model_dump(mode="json", exclude_defaults=True))
    block: Tree = {"name": "terms", "terms": terms, "scale": objective.limits["shared"].model_dump(mode="json")}
    return block if objective.bias is None else {**block, "bias": objective.bias.item()}


def _show_run(path: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from workbench.cli._printing import print_evaluations
    from workbench.runs.report import compare_evaluations, read_report

    report = read_report(path)
    if as_json:
        best = report.best and asdict(report.best)
        facts = {"run": str(path), "recipe": report.recipe, "step": report.step, "finished": report.finished}
        click.echo(json.dumps(facts | {"best": best, "evaluations": report.evaluations}))
        return
    state = "finished" if report.finished else "not finished; the same wb pretrain goes on"
    click.echo(f"{path}: recipe {report.recipe}, step {report.step}, {state}")
    if report.evaluations:
        print_evaluations(compare_evaluations(report.evaluations, report.best), report.metric)
    else:
        click.echo("no evaluation yet")


def _as_yaml(tree: Mapping[str, object]) -> str:
    from workbench.recipe.yaml_text import write_yaml

    return write_yaml(dict(tree), width=110, flow=None)


def _inline(value: object) -> str:
    """Write a value as a recipe does, on one line."""
    from workbench.recipe.yaml_text import write_yaml

    return write_yaml(value, width=1000, flow=True).removesuffix("...\n").strip()


def round_numbers(value: object) -> object:
    """Round the numbers of a tree as people read them: six digits, and 0 for what is 0 but for rounding."""
    if isinstance(value, dict):
        return {key: round_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [round_numbers(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) > 1e-9 else 0.0
    return value


def _indented(text: str, prefix: str) -> str:
    return "\n".join((prefix + line).rstrip() for line in text.rstrip().splitlines())
