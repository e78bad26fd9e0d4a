"""Writes the reference from the code. Nothing of it is kept in a file, so nothing of it can be out of date."""

from __future__ import annotations

from commands import write_commands
from components import write_components, write_recipes, write_sections
from python import write_python
from workbench.recipe.component import KINDS

TITLES = {
    "encoder": "Encoders",
    "fusion": "Fusion modules",
    "objective": "Objectives",
    "data": "Data sets",
    "eval": "Evaluators",
    "task": "Synthetic tasks",
    "callback": "Callbacks",
}


def list_reference() -> dict[str, str]:
    """List the pages of the reference: {title: place in the site}."""
    names = ("Commands", "commands"), ("Keys of a recipe", "recipe"), ("Shipped recipes", "recipes")
    kinds = ((TITLES[kind], kind) for kind in KINDS)
    return {title: f"reference/{name}.md" for title, name in (*names, *kinds, ("Python", "python"))}


def write_reference() -> dict[str, str]:
    """Write the pages of the reference: {place in the site: Markdown}."""
    texts = [write_commands(), write_sections(), write_recipes()]
    texts += [write_components(kind, TITLES[kind]) for kind in KINDS]
    return dict(zip(list_reference().values(), [*texts, write_python()], strict=True))
