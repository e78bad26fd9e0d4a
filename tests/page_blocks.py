"""Reads the fenced blocks of a page, and the commands in those of bash. A block that cannot be checked says why, in a
comment before it: `<!-- not run: it trains for ten minutes -->`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
FENCE = re.compile(
    r"(?:^[ ]*<!--\s*not run:(?P<reason>.*?)-->\s*)?"
    r"^(?P<indent>[ ]*)(?P<fence>`{3,})[ ]*(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)(?P=fence)[ ]*$",
    re.DOTALL | re.MULTILINE,
)
FILE = re.compile(r"#\s*([\w./-]+\.(?:py|ya?ml))\s*(?:$|\s{2,})")
"""the first line of a block that is a file: its name"""
SEPARATORS = re.compile(r"[;&|()<>]+")
SHELL_WORDS = {"do", "then", "else", "time", "exec", "srun", "nohup"}
"""what may stand before a command"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    reason: str
    """why it is not checked; empty where it is"""

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, if its first line says one."""
        found = FILE.match(self.text.partition("\n")[0])
        return found[1] if found else None


def read_blocks(text: str) -> list[Block]:
    """Read the fenced blocks of a page, with the lines that they begin in."""
    return [
        Block(
            text.count("\n", 0, found.start("fence")) + 1,
            found["language"],
            dedent(found["text"]),
            (found["reason"] or "").strip(),
        )
        for found in FENCE.finditer(text)
    ]


def read_commands(text: str) -> list[list[str]]:
    """Split lines of a shell into commands, each a list of words; comments, redirections and assignments are left out.

    Commands within a quoted word, as in `sbatch --wrap 'wb sweep mine.yaml'`, come behind the one that they stand in.
    Raises ValueError for quotation marks that are not closed.
    """
    found: list[list[str]] = []
    for words in map(_split, _join(text)):
        current: list[str] = []
        left_out = False
        for word in [*words, ";"]:
            if SEPARATORS.fullmatch(word):
                if set(word) & set("<>"):
                    left_out = True
                elif current:
                    found.append(current)
                    current = []
            elif left_out:
                left_out = False
            elif current or not (word in SHELL_WORDS or re.match(r"\w+=", word)):
                current.append(word)
    inner = [command for words in found for word in words if word.startswith("wb ") for command in read_commands(word)]
    return found + inner


def _join(text: str) -> list[str]:
    """Join lines that end in a backslash, or within quotation marks, with those behind them."""
    lines: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        open_quote = lines and _is_open(lines[-1])
        lines[-1:] = [f"{lines[-1]}\n{line}"] if open_quote else [*lines[-1:], line]
    return lines


def _is_open(line: str) -> bool:
    try:
        _split(line)
    except ValueError:
        return True
    return False


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    return list(lexer)
