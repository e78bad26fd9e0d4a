"""YAML as people mean it: plain values, each with the line it was written on, anchors and merges; nothing else.

PyYAML reads YAML 1.1, where 010 is eight, 1:30 is ninety, 2024-01-02 a date, `on` as a key a boolean and 3e-4 a text.
Here a number is decimal, every key is a word, and what is neither a number, true, false nor null is a text.

The trap: twenty lines can describe a billion values (aliases of aliases), or a tree without an end (an alias inside of
its own anchor). So values are counted, depth is limited, and a tree that contains itself is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

from workbench.errors import RecipeError

Path = tuple[str | int, ...]
"""the keys, and the places in lists, that lead to a value"""
Lines = dict[Path, str]
"""{path of a key: where it was written}"""

DEEPEST, MOST = 40, 100_000
"""levels, and values, that a text may have; no recipe comes near"""
TOO_DEEP = f"more than {DEEPEST} levels, one inside of the other: a recipe has a handful"
HALF = "half a character (an escape \\ud800 to \\udfff), or a zero byte: write the whole character"
TAG = "tag:yaml.org,2002:"
SIGN = r"[-+]?"
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
PATTERNS = {
    "merge": (r"<<", "<"),
    "null": (r"~|null|Null|NULL|", "~nN\0"),  # \0 stands for the empty text
    "bool": ("|".join(f"{w}|{w.title()}|{w.upper()}" for w in WORDS), "tTfFyYnNoO"),
    "int": (rf"{SIGN}(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+)", "-+0123456789"),
    "float": (
        rf"{SIGN}(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        rf"|\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
        "-+.0123456789",
    ),
}
"""{kind of value: (what it looks like, the letters it begins with)}; everything else is a text"""


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and parser with the patterns above in the place of its own."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    # PyYAML's time is quadratic in the depth, so that is refused while the text is scanned, not when it has been
    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        self._refuse_depth(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._refuse_depth(len(self.indents))
        return super().add_indent(column)

    def _refuse_depth(self, levels: int) -> None:
        if levels > DEEPEST:
            raise yaml.MarkedYAMLError(problem=TOO_DEEP, problem_mark=self.get_mark())


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, which quotes a text that either dialect would read as something else."""


for _kind, (_pattern, _letters) in PATTERNS.items():
    _first = ["" if letter == "\0" else letter for letter in _letters]
    for _either in (_Loader, _Dumper):
        _either.add_implicit_resolver(TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


@dataclass
class Parsed:
    """A text as a plain value: dicts with words as keys, lists, texts, numbers, booleans, None."""

    value: object
    lines: Lines
    blank: set[Path]
    """keys that are written without a value, which is None in `value`, as is an explicit null"""


def parse_yaml(text: str, place: Callable[[int], str]) -> Parsed:
    """Read one document. `place` names a line (the first is 1) in errors and in `Parsed.lines`.

    Raises RecipeError with the place, what is wrong there and the remedy.
    """
    reader, node = _Reader(place), _compose(text, place)
    value = None if node is None else reader.read(node, ())
    return Parsed(value, reader.lines, reader.blank)


def write_yaml(value: object, *, width: int = 120, flow: bool | None = False) -> str:
    """Write plain values so that `parse_yaml` reads them back; `flow` is yaml.dump's default_flow_style."""
    options = {"sort_keys": False, "allow_unicode": True, "width": width, "default_flow_style": flow}
    return yaml.dump(value, Dumper=_Dumper, **options)


def _compose(text: str, place: Callable[[int], str]) -> yaml.Node | None:
    """Compose PyYAML's nodes of a text; its errors become a RecipeError with the place."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line, sign = text.count("\n", 0, error.position) + 1, text[error.position]
        raise RecipeError(
            f"{place(line)}: the character {sign!r} may not stand in YAML: remove it, and save the file as UTF-8"
        ) from None
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        if error.problem == TOO_DEEP:
            raise RecipeError(f"{place(mark.line + 1)}: {TOO_DEEP}") from None
        problem = f"{error.context} {error.problem}" if str(error.problem).startswith("but ") else error.problem
        raise RecipeError(f"{place(mark.line + 1)}: not YAML: {problem}{_hint(error)}") from None
    except (ValueError, OverflowError) as error:  # an escape beyond the last letter of Unicode
        raise RecipeError(f"{place(loader.get_mark().line + 1)}: not YAML: {error}") from None


def _hint(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "'\\t'" in problem:
        return ": indent with spaces"
    if problem.startswith("mapping values are not allowed"):
        return ": put a text that has ': ' in it between quotes, and check the indentation"
    if problem.startswith(("found undefined alias", "found character")) or "found unknown directive" in problem:
        return ": put a text that begins with such a sign between quotes"
    return ""


class _Reader:
    """Turns PyYAML's nodes into plain values, and remembers where each key was written."""

    def __init__(self, place: Callable[[int], str]) -> None:
        self.place = place
        self.lines: Lines = {}
        self.blank: set[Path] = set()
        self._open: list[yaml.Node] = []
        self._count = 0

    def read(self, node: yaml.Node, at: Path) -> object:
        """Return the value of a node that stands at this path. Raises RecipeError."""
        with self._inside(node):
            if isinstance(node, yaml.MappingNode):
                self._refuse_tag(node, "map")
                return {name: self._read_pair(name, key, item, at) for name, (key, item) in self._pairs(node).items()}
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, "seq")
                return [self.read(item, (*at, index)) for index, item in enumerate(node.value)]
            return self._scalar(node)

    def where(self, node: yaml.Node) -> str:
        return self.place(node.start_mark.line + 1)

    def _read_pair(self, name: str, key: yaml.Node, item: yaml.Node, at: Path) -> object:
        path = (*at, name)
        self.lines[path] = self.where(key)
        if isinstance(item, yaml.ScalarNode) and item.tag == TAG + "null" and not item.value:
            self.blank.add(path)
        return self.read(item, path)

    def _pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Collect {key: (its node, its value's)}, with what `<<` merges: the block's own keys win, then the first
        merged."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, item in node.value:
            if key.tag == TAG + "merge":
                for source in self._sources(item):
                    with self._inside(source):
                        merged = self._pairs(source) | merged
            elif not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{self.where(key)}: a key is a word, here is a list or a block: put it in quotes")
            elif (name := self._text(key)) in own:
                raise RecipeError(f"{self.where(key)}: duplicate key '{name}': remove one of the two")
            else:
                own[name] = (key, item)
        return merged | own

    def _sources(self, node: yaml.Node) -> list[yaml.MappingNode]:
        """Collect the blocks that a `<<` names: one, or a list of them."""
        found = node.value if isinstance(node, yaml.SequenceNode) else [node]
        blocks = [source for source in found if isinstance(source, yaml.MappingNode)]
        if len(blocks) < len(found):
            raise RecipeError(f"{self.where(node)}: << merges blocks of keys, as `<<: *name` where `&name` marks one")
        return blocks

    @contextmanager
    def _inside(self, node: yaml.Node) -> Iterator[None]:
        """Count a node, and refuse one that contains itself."""
        self._count += 1
        if any(node is other for other in self._open):
            raise RecipeError(f"{self.where(node)}: this contains itself, through its own anchor: write it out")
        if len(self._open) > DEEPEST:
            raise RecipeError(f"{self.where(node)}: {TOO_DEEP}")
        if self._count > MOST:
            raise RecipeError(f"{self.where(node)}: more than {MOST:,} values, with all aliases: a recipe has hundreds")
        self._open.append(node)
        yield
        self._open.pop()

    def _refuse_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != TAG + kind:
            tag = node.tag.replace(TAG, "!!")
            raise RecipeError(f"{self.where(node)}: the tag {tag} is not read here: write the value without it")

    def _text(self, node: yaml.Node) -> str:
        """Return the text of a scalar; two escapes that are one character, as JSON writes emoji, become that
        character."""
        try:
            text = str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise RecipeError(f"{self.where(node)}: {HALF}")
        return text

    def _scalar(self, node: yaml.Node) -> str | int | float | bool | None:
        text, kind = self._text(node), node.tag.removeprefix(TAG)
        if kind not in ("str", "null", "bool", "int", "float", "merge"):
            self._refuse_tag(node, "str")
        try:
            return _plain(text, kind)
        except (ValueError, KeyError):  # of an explicit tag, as `!!int foo`, or a number of thousands of digits
            said = text if len(text) < 40 else f"{text[:36]}..."
            raise RecipeError(f"{self.where(node)}: {said!r} cannot be read as {kind}: write it otherwise") from None


def _plain(text: str, kind: str) -> str | int | float | bool | None:
    """Turn a text into a value of this kind. Raises ValueError or KeyError where it is none."""
    if kind == "null":
        return None
    if kind == "bool":
        return WORDS[text.lower()]
    if kind == "int":
        return int(text.replace("_", ""), 0)
    if kind == "float":
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
