"""Reads what a component says about itself: its docstring, and its keywords with types, defaults and descriptions.

A keyword is documented where it lives, in the `Args:` of the class; everything that prints documentation reads it here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict, cast

from workbench.recipe.component import declarers, load, schema
from workbench.recipe.yaml_file import Tree
from workbench.recipe.yaml_text import write_yaml

REQUIRED = "required"

PLACES = {
    "encoder": ("model", "encoders", "MODALITY"),
    "fusion": ("model", "fusion"),
    "objective": ("objective",),
    "data": ("data",),
    "eval": ("eval",),
    "callback": ("callbacks",),
    "task": ("data", "task"),
}
"""{kind: the keys of a recipe that lead to its block}"""

NAMES = {"integer": "int", "number": "float", "string": "text", "boolean": "true or false", "object": "a block"}
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


JsonSchema = TypedDict(
    "JsonSchema",
    {
        "$ref": str,
        "$defs": dict[str, "JsonSchema"],
        "properties": dict[str, "JsonSchema"],
        "anyOf": list["JsonSchema"],
        "prefixItems": list["JsonSchema"],
        "items": "JsonSchema",
        "const": object,
        "enum": list[object],
        "type": str,
        "default": object,
        "description": str,
        "title": str,
        "additionalProperties": "JsonSchema",
    },
    total=False,
)
"""the words of a JSON schema that pydantic writes for the arguments of components"""


@dataclass(frozen=True)
class Keyword:
    """One key of a block."""

    name: str
    type: str
    default: object
    """a plain value, or REQUIRED"""
    description: str


@dataclass(frozen=True)
class Block:
    """The text about a block of a recipe, and the keys that may be written in it."""

    text: str
    keywords: list[Keyword]


@dataclass(frozen=True)
class Documentation:
    """A component as its source describes it."""

    kind: str
    name: str
    file: str
    block: Block
    inner: dict[str, Block]
    """{name of a type: the block that keywords of this type take}"""

    def as_dict(self) -> Tree:
        return {**asdict(self), "example": self.example()}

    def example(self) -> str:
        """Write the component as a recipe has it, with every default; what must be given is in angle brackets."""
        values = {k.name: f"<{k.type}>" if k.default == REQUIRED else k.default for k in self.block.keywords}
        places = PLACES[self.kind]
        tree: Tree = {"name": self.name} | values
        if self.kind in ("eval", "callback") and ":" not in self.name:  # the key names it
            tree, places = values, (*places, self.name)
        for key in reversed(places):
            tree = {key: tree}
        return write_yaml(tree, width=100, flow=None)


def document(kind: str, name: str) -> Documentation:
    """Read the documentation of a component, or of the user's `path.to.module:Class`.

    Raises ValueError when there is no such component.
    """
    component = load(kind, name)
    found = cast(JsonSchema, schema(component).model_json_schema(by_alias=True))
    inner = {name: _block(block, block.get("description", "")) for name, block in found.get("$defs", {}).items()}
    inner |= {block.get("title", ""): _block(block, block.get("description", "")) for block in _named_blocks(found)}
    file = Path(inspect.getfile(component)).resolve()
    here = Path.cwd()
    shown = file.relative_to(here) if file.is_relative_to(here) else file
    docs = [inspect.getdoc(component) or "", *(owner.__doc__ or "" for owner in declarers(component))]
    return Documentation(kind, name, str(shown), _block(found, *docs), inner)


def _named_blocks(found: JsonSchema) -> Iterator[JsonSchema]:
    """Find the blocks that a keyword may have by any name, as the fields of a data set."""
    for value in found.get("properties", {}).values():
        for choice in value.get("anyOf", [value]):
            inside = choice.get("additionalProperties")
            for block in inside.get("anyOf", []) if isinstance(inside, dict) else []:
                if "title" in block:
                    yield block


def _block(found: JsonSchema, doc: str, *inherited: str) -> Block:
    """Read the block of a JSON schema, described by `doc`, and by `inherited` where that says nothing of a keyword."""
    text, descriptions = split_docstring(doc)
    for further in inherited:
        descriptions = split_docstring(further)[1] | descriptions
    keywords = []
    for key, value in found.get("properties", {}).items():
        description: str = descriptions.get(key) or value.get("description", "")
        keywords.append(Keyword(key, spell(value), value.get("default", REQUIRED), description))
    return Block(text, keywords)


def split_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Return the text without its `Args:` section, and {argument: description}."""
    text: list[str] = []
    descriptions: dict[str, str] = {}
    inside, last = False, ""
    for line in inspect.cleandoc(doc).splitlines():
        if line == "Args:":
            inside = True
        elif not inside or (line and not line.startswith(" ")):
            inside = False
            text.append(line)
        elif line.startswith("     ") and last:
            descriptions[last] += " " + line.strip()
        elif line.strip():
            last, _, description = line.strip().partition(": ")
            descriptions[last] = description
    return "\n".join(text).strip(), descriptions


def spell(found: JsonSchema) -> str:
    """Say a type of a JSON schema in a few words: `float > 0`, `zip | all`, `list of Term`."""
    if "$ref" in found:
        return found["$ref"].rpartition("/")[2]
    if "const" in found or "enum" in found:
        return " | ".join(map(str, found.get("enum", [found.get("const")])))
    if "anyOf" in found:
        return " | ".join(map(spell, found["anyOf"]))
    if "prefixItems" in found:
        return f"[{', '.join(map(spell, found['prefixItems']))}]"
    if "items" in found:
        return f"list of {spell(found['items'])}"
    kind: str = found.get("type", "anything")
    limits = [f"{sign} {found[key]:g}" for key, sign in BOUNDS.items() if key in found and found[key] < 2**31]
    return " ".join([NAMES.get(kind, kind), " and ".join(limits)]).strip()
