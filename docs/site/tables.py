"""Writes plain text as Markdown that shows it as it stands, and tables of such cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from links import outside_of_code


def literal(text: str) -> str:
    """Keep Markdown from reading signs in the words of a docstring or a help text; `code` stays code."""
    return outside_of_code(text, lambda part: re.sub(r"([\\*_\[#~])", r"\\\1", part).replace("<", "&lt;"))


def write_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a line break in a cell becomes a space, and `|` stands for itself."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines) if len(lines) > 2 else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;") if "`" not in text else _cell_with_code(text)


def _cell_with_code(text: str) -> str:
    """Write code with a `|` as HTML: between backticks it would end the cell, and an entity would be shown."""

    def spell(code: re.Match[str]) -> str:
        inside = code[1].replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("*", "&#42;")
        return f"<code>{inside}</code>" if "|" in code[1] else code.group()

    return outside_of_code(
        re.sub(r"`([^`]+)`", spell, " ".join(text.split())), lambda part: part.replace("|", "&#124;")
    )
