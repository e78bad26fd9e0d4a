"""Writes the pages of what a recipe may say: its own keys, every component of each kind, the shipped recipes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import get_args

from tables import literal, write_table
from workbench.cli.ls import KINDS as WORDS
from workbench.cli.show import round_numbers
from workbench.recipe.component import names, summary
from workbench.recipe.documentation import REQUIRED, Block, document, spell
from workbench.recipe.duration import Clock, Span
from workbench.recipe.schema import Recipe
from workbench.recipe.section import Section
from workbench.recipe.yaml_file import recipe_names, shipped_recipes
from workbench.recipe.yaml_text import write_yaml

KEYS = ["key", "type", "default", "meaning"]
TIMES = {
    "Span": "a length, as `10 epochs`",
    "Interval": "a time between, as `100 steps`",
    "Clock": "a time, as `30 minutes`",
}
PAGES = {kind: kind for kind in ("encoder", "fusion", "objective", "data", "eval", "callback")}


def write_components(kind: str, title: str) -> str:
    """Write every component of a kind: its text, its keys, and how a recipe has it, as `wb show` prints them."""
    about = f"{WORDS[kind][0].upper()}{WORDS[kind][1:]}. `wb show {kind} NAME` prints what stands here."
    rows = [[f"[`{name}`](#{name})", literal(summary(kind, name))] for name in names(kind)]
    text = [f"# {title}\n", f"{literal(about)}\n", write_table(["name", "what it is"], rows)]
    for name in names(kind):
        found = document(kind, name)
        text += [f"## {name}\n", *write_block(found.block)]
        for inner, block in found.inner.items():
            text += [f"`{inner}`, a block:\n", *write_block(block)]
        text.append(f"```yaml\n{found.example().rstrip()}\n```\n")
    return "\n".join(text)


def write_block(block: Block) -> Iterator[str]:
    """Write the text about a block, and a table of its keys."""
    yield "\n\n".join(map(_paragraph, block.text.split("\n\n"))) + "\n"
    rows = [
        [
            f"`{k.name}`",
            f"`{k.type}`",
            "" if k.default == REQUIRED else f"`{inline(k.default)}`",
            literal(k.description),
        ]
        for k in block.keywords
    ]
    yield write_table(KEYS, rows)


def _paragraph(text: str) -> str:
    """Write a paragraph of a docstring; indented lines are code or a formula."""
    lines = text.splitlines()
    return f"```text\n{inspect.cleandoc(text)}\n```" if lines and lines[0].startswith("  ") else literal(text)


def inline(value: object) -> str:
    """Write a value on one line as a recipe has it."""
    return write_yaml(round_numbers(value), width=1000, flow=True).removesuffix("...\n").strip()


def write_sections() -> str:
    """Write the blocks of a recipe and their keys, beside those of components."""
    about = "Every key, its type, its default, its meaning. `wb show recipe NAME` prints a recipe with all its keys."
    text, left = [f"# Keys of a recipe\n\n{about}\n"], [("", Recipe)]
    while left:
        path, section = left.pop(0)
        text += [f"## {path or 'At the top'}\n", f"{literal(inspect.getdoc(section) or '')}\n"]
        text.append(write_table(KEYS, keys_of(section, path)))
        inner = {
            name.rstrip("_"): found
            for name, field in section.model_fields.items()
            for found in sections(field.annotation)
        }
        left += [(f"{path}.{key}" if path else key, found) for key, found in inner.items()]
    return "\n".join(text)


def keys_of(section: type[Section], path: str) -> Iterator[list[str]]:
    """Write a row of a table for each key of the section at `path`."""
    types = section.model_json_schema(by_alias=True)["properties"]
    for name, field in section.model_fields.items():
        key, inner = name.rstrip("_"), [*sections(field.annotation)]
        if key == "evaluators":
            yield [
                "`NAME`",
                "[`eval`](eval.md)",
                "",
                "an evaluator of this name, and its keys; the prefix of its metrics",
            ]
            continue
        if inner:
            yield [
                f"`{key}`",
                f"[a block](#{path}{key})",
                "",
                literal(field.description or inspect.getdoc(inner[0]) or ""),
            ]
            continue
        if (each := types[key].get("additionalProperties", {}).get("type")) in PAGES:
            yield [f"`{key}`", f"a block of [{each}s]({PAGES[each]}.md)", "", literal(field.description or "")]
            continue
        value = str(field.default) if isinstance(field.default, Span | Clock) else field.default
        default = "" if field.is_required() else f"`{inline(value)}`"
        yield [f"`{key}`", say_type(spell(types[key])), default, literal(field.description or "")]


def say_type(spelt: str) -> str:
    """Say a type, with an example of a time, and a link to a component's page."""
    words = [
        TIMES.get(word) or (f"[{word}]({PAGES[word]}.md)" if word in PAGES else f"`{word}`")
        for word in spelt.split(" | ")
    ]
    return " or ".join(words)


def sections(annotation: object) -> Iterator[type[Section]]:
    """Find the sections in a type, as in `InitSection | None`."""
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from sections(part)


def write_recipes() -> str:
    """Write the shipped recipes, each with its first comment: command, time, expected result."""
    about = "`wb pretrain NAME` trains one, `extends: NAME` in a file of your own takes it over but for what you write."
    rows = []
    for name in recipe_names():
        first = (shipped_recipes() / name).read_text(encoding="utf-8").partition("\n")[0]
        said = " ".join(first.removeprefix("#").partition("  ")[2].split()) if first.startswith("#") else ""
        rows.append([f"[{name}](../../recipes/{name})", literal(said)])
    return f"# Shipped recipes\n\n{about}\n\n{write_table(['recipe', 'time and result'], rows)}"
