"""CSV and TSV files to columns of texts, with every row that is none named.

The trap: quotation marks. In a TSV they mean nothing, as a rule, and `5" tall` is a text; read as CSV, one that is
never closed swallows rows up to the next, without an error. So a TSV is read without them unless that fails and they
explain all of it; and in a CSV a cell that holds whole rows is no cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from workbench.errors import shorten
from workbench.loading.captions import MARKS, decode_text
from workbench.loading.choosing import PICTURES
from workbench.loading.paths import MAX_BYTES
from workbench.types import Skipped

SEPARATORS = ("\t", ",", ";", "|")
NAMELESS = "names no picture: its cell is empty"
LONGEST = 2**24
"""letters of a header, at most; a longer first line is no header, and must not fill the memory"""
CHUNK = 2**16
"""rows that are Python's texts at the same time, before Arrow has them"""


@dataclass(frozen=True)
class Dialect:
    """How fields are told apart."""

    sep: str
    quote: str | None
    header: list[str]
    """names of the columns, without the blanks around them"""
    skip: int = 0
    """lines before the header"""
    blanks: bool = False
    """a blank stands behind each separator"""


@dataclass
class Rows:
    """The rows of a file that were read, a column each, and those that were not."""

    columns: dict[str, pa.ChunkedArray]
    left_out: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Paths:
    """The columns that hold paths of files."""

    names: Sequence[str]
    lead: str | None = None
    """the one without which a row is none"""


def read_columns(file: str, wanted: Sequence[str], paths: Paths, dialect: Dialect, auto: bool) -> Rows:
    """Read some columns of a file as texts, whatever they look like.

    Args:
        file: where it is.
        wanted: names of columns, all of which are in its header.
        paths: those of them that hold paths.
        dialect: how its fields are told apart.
        auto: whether quotation marks may be tried where rows are broken without them.

    Raises ValueError when it cannot be read at all.
    """
    if dialect.quote is not None:
        return _read_quoted(file, wanted, paths, dialect)
    rows = _read_plain(file, wanted, dialect)
    if rows.left_out and auto:
        quoted = _read_quoted(file, wanted, paths, replace(dialect, quote='"'))
        rows = rows if quoted.left_out else quoted
    if paths.lead is None:
        return rows
    named = pc.greater(pc.binary_length(rows.columns[paths.lead]), 0)  # type: ignore[attr-defined]
    if not pc.all(named).as_py():  # type: ignore[attr-defined]
        for row in pc.indices_nonzero(pc.invert(named)).to_pylist():  # type: ignore[attr-defined]
            rows.left_out.append(Skipped(f"{file}: row {row + 2 + dialect.skip}", NAMELESS))
        rows.columns = {name: column.filter(named) for name, column in rows.columns.items()}
    return rows


def tell_dialect(file: str, wanted: Sequence[str], sep: str | None, quote: str | None) -> Dialect:
    """Read the header. `sep` None: the first of SEPARATORS with which it has the `wanted` columns; `quote` "auto": `"`,
    but none in a TSV. Raises ValueError for an empty file and for a `sep` that is none."""
    with _open(file) as lines:
        line, skip = lines.readline(LONGEST), 0
        if sep is None and line.startswith("sep=") and len(line.strip()) in (4, 5):  # as Excel writes it
            sep, line, skip = line[4:5], lines.readline(LONGEST), 1
    if len(line) == LONGEST:
        raise ValueError(f"{file} begins with a line of more than {LONGEST:,} letters, which is no header of columns")
    if not line.strip():
        rest = Path(file).stat().st_size > 2
        raise ValueError(
            f"{file} begins with an empty line: remove it" if rest else f"{file} is empty: there is no header"
        )
    if "\0" in line:
        raise ValueError(f"{file} holds NUL characters, as UTF-16 without its mark does: save it as UTF-8")
    if sep is not None:
        sep = {"\\t": "\t"}.get(sep, sep)
        if len(sep) != 1 or sep in '"\r\n':
            raise ValueError(f"data.sep is {sep!r}: one character, in quotes, as sep=';' or --set 'data.sep=\"|\"'")
    tried = [sep] if sep else [*SEPARATORS]
    headers = {s: _split_header(line, s) for s in tried}
    fits = next((s for s in tried if {*wanted} <= {*headers[s]}), None)
    chosen = fits or sep or ("\t" if "\t" in line else ",")
    names = headers.setdefault(chosen, [])
    raw = line.rstrip("\r\n").split(chosen)
    all_quoted = all(cell[:1] == cell[-1:] == '"' and len(cell) > 1 for cell in raw)
    if quote == "auto":
        quote = '"' if chosen != "\t" or all_quoted else None
    blanks = len(raw) > 1 and all(cell[:1] == " " for cell in raw[1:])
    return Dialect(chosen, quote, names, skip, blanks)


def _split_header(line: str, sep: str) -> list[str]:
    """Split a header into names; none where it has one that is longer than Python's reader of CSV takes."""
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=sep), [])]
    except csv.Error:
        return []


@contextmanager
def _open(file: str) -> Iterator[TextIO]:
    """Open the text of a file: UTF-8, whose damage is kept as it is, or what its mark says."""
    with Path(file).open("rb") as source:
        start = source.read(4)
    if any(start.startswith(mark) and encoding != "utf-8" for mark, encoding in MARKS):
        yield io.StringIO(decode_text(Path(file).read_bytes()), newline="")
    else:
        with Path(file).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            yield lines


def _read_plain(file: str, wanted: Sequence[str], dialect: Dialect) -> Rows:
    """Read a file in which a line is a row. A cell that some writer has put in quotes, as it had to, is unquoted."""
    left_out: list[Skipped] = []

    def leave_out(row: arrow_csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        number = (row.number or 0) + dialect.skip
        left_out.append(Skipped(f"{file}: row {number}", reason))
        return "skip"

    with Path(file).open("rb") as source:
        start = source.read(4)
    marked = any(start.startswith(mark) and encoding != "utf-8" for mark, encoding in MARKS)
    try:
        found = arrow_csv.read_csv(
            pa.BufferReader(decode_text(Path(file).read_bytes()).encode()) if marked else file,
            arrow_csv.ReadOptions(  # only without threads a bad row knows its number
                use_threads=False, column_names=dialect.header, skip_rows=1 + dialect.skip
            ),
            arrow_csv.ParseOptions(delimiter=dialect.sep, quote_char=False, invalid_row_handler=leave_out),
            arrow_csv.ConvertOptions(
                include_columns=list(wanted),
                column_types=dict.fromkeys(wanted, pa.large_string()),
                check_utf8=False,  # a caption that is not UTF-8 is a bad sample, not a bad file
            ),
        )
    except pa.ArrowException as error:
        if "Empty CSV file" in str(error):
            return Rows({name: pa.chunked_array([[]], pa.large_string()) for name in wanted})
        raise ValueError(f"{file} cannot be read: {error}; is data.sep={dialect.sep!r} right?") from None
    return Rows({name: _unquote(_trim(found[name], dialect)) for name in wanted}, left_out)


def _unquote(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Take the quotes off cells that hold doubled ones: writers quote a text only if it holds one, and double it."""
    raw = cells.cast(pa.large_binary())  # it need not be UTF-8
    quoted = pc.match_substring_regex(raw, rb'^"(?:[^"]|"")*""(?:[^"]|"")*"$')  # type: ignore[attr-defined]
    if not pc.any(quoted).as_py():  # type: ignore[attr-defined]
        return cells
    inner = pc.replace_substring_regex(raw, b'^"|"$', b"")  # type: ignore[attr-defined]
    inner = pc.replace_substring(inner, b'""', b'"')  # type: ignore[attr-defined]
    return as_texts(pc.if_else(quoted, inner, raw))  # type: ignore[attr-defined]


def as_texts(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Call bytes texts without a look at them: what is no UTF-8 fails when it is read."""
    return pa.chunked_array([chunk.view(pa.large_string()) for chunk in cells.chunks], pa.large_string())


def _trim(cells: pa.ChunkedArray, dialect: Dialect) -> pa.ChunkedArray:
    return pc.ascii_trim_whitespace(cells) if dialect.blanks else cells  # type: ignore[attr-defined]


def _read_quoted(file: str, wanted: Sequence[str], paths: Paths, dialect: Dialect) -> Rows:
    """Read a file whose cells may be quoted, and then hold separators and line breaks."""
    left_out: list[Skipped] = []
    places = [dialect.header.index(name) for name in wanted]
    chunks: list[list[pa.Array]] = [[] for _ in places]
    buffer: list[list[str]] = []

    def flush() -> None:
        for place, chunk in zip(places, chunks, strict=True):
            chunk.append(pa.array([row[place].encode("utf-8", "surrogateescape") for row in buffer], pa.large_binary()))
        buffer.clear()

    for number, last, row, reason in _records(file, dialect):
        swallowed = reason or _swallowed(row, paths, dialect)
        if swallowed:
            left_out.append(Skipped(f"{file}: row {number}", swallowed))
            left_out += [Skipped(f"{file}: row {n}", f"swallowed by row {number}") for n in range(number + 1, last + 1)]
            continue
        buffer.append(row)
        if len(buffer) == CHUNK:
            flush()
    flush()
    read = (_trim(as_texts(pa.chunked_array(chunk, pa.large_binary())), dialect) for chunk in chunks)
    return Rows(dict(zip(wanted, read, strict=True)), left_out)


def _records(file: str, dialect: Dialect) -> Iterator[tuple[int, int, list[str], str]]:
    """Give (first line, last line, fields, what is wrong with them) of each record below the header.

    After an error the next record begins at the next line.
    """
    before = csv.field_size_limit(MAX_BYTES)  # a cell may be a picture in base64
    try:
        with _open(file) as source:
            lines = _Remembered(source)
            for _ in range(dialect.skip):
                next(lines)
            reader = csv.reader(lines, delimiter=dialect.sep, quotechar=dialect.quote, strict=True)
            next(reader, None)
            while True:
                first = reader.line_num + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    wrong = (
                        "a quotation mark stands within a text, or is never closed: double it, or set data.quote=null"
                    )
                    if '\\"' in lines.last:
                        wrong = 'a backslash stands before a quotation mark: write "" for \\"'
                    yield first + dialect.skip, reader.line_num + dialect.skip, [], wrong
                    continue
                if not row:
                    continue
                wrong = f"{len(row)} fields instead of {len(dialect.header)}" if len(row) != len(dialect.header) else ""
                yield first + dialect.skip, reader.line_num + dialect.skip, row, wrong
    finally:
        csv.field_size_limit(before)


class _Remembered(Iterator[str]):
    """Lines, of which the last one is remembered: an error says what was in it."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.last = lines, ""

    def __next__(self) -> str:
        self.last = next(self._lines)
        return self.last


def _swallowed(row: list[str], paths: Paths, dialect: Dialect) -> str:
    """Say what is wrong with a record that names no picture, or whose cells hold lines that look like rows."""
    if paths.lead is not None and not row[dialect.header.index(paths.lead)].strip():
        return NAMELESS
    endings = {Path(row[dialect.header.index(name)]).suffix.lower() for name in paths.names}
    for cell in row:
        if "\n" not in cell:
            continue
        for line in cell.split("\n")[1:]:
            fields = line.split(dialect.sep)
            if len(fields) > 1 and any(_looks_like(part, endings) for part in fields):
                said = f"a quotation mark swallows the rows behind it ({shorten(cell, 60)!r})"
                return f"{said}: close it, double it, or set data.quote=null"
    return ""


def _looks_like(text: str, endings: Collection[str]) -> bool:
    """Say whether a text ends as the name of a picture does, or as those of the row."""
    ending = Path(text.strip().strip('"')).suffix.lower()
    return bool(ending) and (ending[1:] in PICTURES or ending in endings)
