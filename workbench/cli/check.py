"""`wb check`: validate recipes to the last shape, without reading data or holding weights."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as train.lr=1e-3.")
@click.option("--json", "as_json", is_flag=True, help="Print {recipe: null or its errors}.")
def check_(recipes: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Validate recipes; every mistake is printed with file and line. Exit 2 if there is one.

    Example: wb check recipes/emoji_ito.yaml --set train.batch=512
    """
    from workbench.recipe.schema import RecipeError, load_recipe
    from workbench.runs.cost import assemble

    found: dict[str, str | None] = {}
    for recipe in recipes:
        try:
            assemble(load_recipe(recipe, overrides))
            found[recipe] = None
        except RecipeError as error:
            found[recipe] = str(error)
        except ValueError as error:  # the keys are right, the parts do not fit each other
            found[recipe] = f"{recipe}: {error}"
    if as_json:
        click.echo(json.dumps(found))
    else:
        for recipe, problem in found.items():
            click.echo(problem or f"{recipe}: ok", err=problem is not None)
    raise SystemExit(2 if any(found.values()) else 0)
