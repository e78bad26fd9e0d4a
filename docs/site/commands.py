"""Writes the page of commands from click: usage, help, options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from textwrap import dedent

import click

from tables import literal, write_table
from workbench.cli import cli


def write_commands() -> str:
    """Write every command with its usage, its help and its options."""
    text = ["# Commands\n", "What `wb COMMAND --help` prints, for every command.\n"]
    for name, command in each_command(cli):
        context = click.Context(command, info_name=f"wb {name}")
        usage = " ".join([f"wb {name}", *command.collect_usage_pieces(context)])
        text += [f"## wb {name}\n", f"```text\n{usage}\n```\n"]
        text += map(write_paragraph, split_help(f"{command.help or ''}\n\n{command.epilog or ''}"))
        records = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
        text.append(write_table(["option", "meaning"], ([f"`{option}`", literal(said)] for option, said in records)))
    return "\n".join(text)


def each_command(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Find every command that does something, with its words behind `wb`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from each_command(command, f"{before}{name} ")
        elif command is not None:
            yield before + name, command


def split_help(text: str) -> list[str]:
    """Split a help text into its paragraphs, and exit codes from examples. Click's `\\b` keeps a paragraph's lines."""
    parts = re.split(r"\n[ \t]*\n|\n(?=Exit codes: )", inspect.cleandoc(text))
    return [part for part in parts if part.strip()]


def write_paragraph(text: str) -> str:
    """Write a paragraph of a help text: examples as a block to copy, lines that are kept as they stand."""
    kept, text = text.startswith("\b\n"), text.removeprefix("\b\n")
    if example := re.match(r"Examples?:\s*", text):
        return f"```bash\n{dedent(' ' * example.end() + text[example.end() :])}\n```\n"
    return f"```text\n{text}\n```\n" if kept else f"{literal(text)}\n"
