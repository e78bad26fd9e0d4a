"""A comparison as one page of HTML that needs nothing beside itself: no network, no script of others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from workbench.studies.comparison import Comparison
from workbench.studies.comparison_figures import as_svg, draw
from workbench.studies.comparison_tables import CONFLICTS, Table, list_remarks, list_tables

NUMBER = re.compile(r"[-+−]?\d")
"""the beginning of a cell that is written to the right"""
STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --quiet: #5b6472; --line: #e6e8ec; --back: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6eb; --quiet: #a3abb8; --line: #363c47; --back: #16191f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; } .wide > svg { min-width: 44rem; background: #fff; border-radius: 4px; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
th { cursor: pointer; color: var(--quiet); font-weight: 600; } th:focus-visible { outline: 2px solid #3b6fb6; }
th[aria-sort=ascending]::after { content: " \\25B2"; } th[aria-sort=descending]::after { content: " \\25BC"; }
.warning { border-left: 4px solid #d9480f; padding-left: 1rem; }
"""
SCRIPT = """
const UNITS = {min: 60, h: 3600, GiB: 1024};  // of times in seconds, of sizes in MiB
const number = text => {
  const found = text.replace(/\\u2212/g, "-").match(/^([+-]?(?:\\d+\\.?\\d*|\\.\\d+)(?:e[+-]?\\d+)?) ?(min|h|GiB)?/i);
  return found ? parseFloat(found[1]) * (UNITS[found[2]] || 1) : NaN;
};
const compare = (a, b, up) => {
  const [x, y] = [number(a), number(b)];
  if (isNaN(x) && isNaN(y)) return up * a.localeCompare(b);
  return isNaN(x) ? 1 : isNaN(y) ? -1 : up * (x - y);  // what has no number stands last, either way
};
const sort = head => {
  const up = head.getAttribute("aria-sort") !== "ascending", body = head.closest("table").tBodies[0];
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const text = row => row.cells[head.cellIndex].innerText;
  body.append(...[...body.rows].sort((a, b) => compare(text(a), text(b), up ? 1 : -1)));
};
for (const head of document.querySelectorAll("th")) {
  head.tabIndex = 0;
  head.onclick = () => sort(head);
  head.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(head); } };
}
"""


def write_page(found: Comparison, title: str) -> str:
    """Write the page: what is said in words, the picture, the tables, what was not counted."""
    remarks = {heading: _list(heading, lines) for heading, lines in list_remarks(found)}
    first = "".join(remarks.pop(heading, "") for heading in (CONFLICTS, "in words"))
    tables = "".join(map(_write_table, list_tables(found)))
    picture = f'<div class="wide">{as_svg(draw(found))}</div>'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{first}{picture}\n{tables}{''.join(remarks.values())}<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _list(heading: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>\n" for line in lines)
    kind = ' class="warning"' if heading == CONFLICTS else ""
    return f"<section{kind}><h2>{escape(heading)}</h2>\n<ul>\n{items}</ul></section>\n"


def _write_table(table: Table) -> str:
    kinds = ["" if any(map(NUMBER.match, column)) else ' class="text"' for column in zip(*table.rows, strict=True)]
    head = "".join(f'<th scope="col"{k}>{escape(c)}</th>' for k, c in zip(kinds, table.head, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{k}>{escape(c)}</td>" for k, c in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
