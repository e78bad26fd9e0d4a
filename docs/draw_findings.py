"""Rules again on every claim whose values are kept in docs/measured/claims, and writes what docs/findings.md shows.

    python docs/draw_findings.py          # figures/findings/*.svg, measured/findings.csv, the blocks of findings.md
    python docs/draw_findings.py --check  # exit 1 when a file is not what this script writes

A block of findings.md stands between `<!-- claim NAME -->`, `<!-- summary -->`, `<!-- lineup -->`,
`<!-- mechanism -->` or `<!-- words -->`, and `<!-- end -->`; what is around the blocks is written by hand. The trap: a
picture of six claims has six units, so every row has its own scale.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from draw_concepts import Canvas, write
from findings_tables import LINEUP, MECHANISM, read_columns, write_columns, write_words

from workbench.recipe.yaml_file import shipped_recipes
from workbench.studies.claim import NOTHING, read_claim
from workbench.studies.claiming import Ruling, rule_on, subtract
from workbench.studies.court import Answer
from workbench.studies.kept_values import read_kept
from workbench.studies.registration import read_registration
from workbench.studies.wording import Metric

DOCS = Path(__file__).parent
KEPT, FIGURES = DOCS / "measured" / "claims", DOCS / "figures" / "findings"
Row = tuple[str, str, Answer, list[float]]
"""what is asked for ("endpoint", "positive control", ...), by which metric, what came out, and the differences"""


def rule_all() -> dict[str, Ruling]:
    """Rule on every claim that has kept values, {name: ruling}, in the order of their names."""
    found = {}
    for table in sorted(KEPT.glob("*.csv")):
        claim = read_claim(f"claims/{table.stem}")
        registration = read_registration(claim, table.with_suffix(".json"))
        found[table.stem] = rule_on(read_kept(claim, KEPT), claim, registration)
    return found


def list_rows(ruling: Ruling) -> list[Row]:
    """List the endpoints and the controls of a claim, each with its differences within seeds."""
    section, judgement = ruling.claim.section, ruling.judgement
    asked = [("endpoint", one, found) for one, found in zip(section.endpoint, judgement.endpoints, strict=True)]
    for kind, answers in (("positive control", judgement.positive), ("negative control", judgement.negative)):
        asked += [(kind, section.endpoint[0], found) for found in answers]
    return [
        (kind, one.name, found, subtract(ruling.values, ruling.claim.seeds, found.question, one))
        for kind, one, found in asked
    ]


def write_interval(metric: str, found: Answer) -> str:
    """Write an estimate and its confidence sequence, in the metric's unit."""
    read = Metric.parse(metric)
    if found.estimate is None:
        return "not run"
    if found.low == -float("inf"):
        return f"{read.write(found.estimate, signed=True)}{read.unit}"
    low, high = (read.write(bound, signed=True) for bound in (found.low, found.high))
    return f"{read.write(found.estimate, signed=True)} ({low} … {high}){read.unit}"


def write_question(found: Answer) -> str:
    question = found.question
    a, b = (f"`{arm}`" if arm != NOTHING else arm for arm in (question.a, question.b))
    return f"{a} − {b} {question.expect}"


def write_summary(rulings: dict[str, Ruling]) -> str:
    """Write a line for each claim that was asked, and name those that were not."""
    lines = ["| claim | verdict | difference (confidence sequence) | seeds |", "|---|---|---|---|"]
    for name, ruling in rulings.items():
        endpoints = list_rows(ruling)[: len(ruling.claim.section.endpoint)]
        found = "<br>".join(f"{metric} {write_interval(metric, answer)}" for _, metric, answer, _ in endpoints)
        said = f"| [{ruling.claim.section.claim}](#{name}) | **{ruling.judgement.verdict}** "
        lines.append(f"{said}| {found} | {max(answer.seeds for _, _, answer, _ in endpoints)} |")
    others = sorted(path.stem for path in (shipped_recipes() / "claims").glob("*.yaml") if path.stem not in rulings)
    left = "Every claim in `recipes/claims` was asked."
    if others:
        left = f"Ready, and not asked yet: {', '.join(f'`{name}`' for name in others)}."
    return "\n".join([*lines, "", left])


def write_claim(name: str, ruling: Ruling) -> str:
    """Write a claim's verdict, what it follows from, and how to ask again."""
    section, judgement, registration = ruling.claim.section, ruling.judgement, ruling.registration
    lines = [
        f"*{section.claim[0].upper()}{section.claim[1:]}* ({section.source}). "
        f"**{judgement.verdict.capitalize()}**: {judgement.reason}.",
        "",
        f"![Differences within seeds of {name}](figures/findings/{name}.svg)",
        "",
        "| | metric | asked | found | difference (confidence sequence) | e-value | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, metric, found, _ in list_rows(ruling):
        margin = found.question.margin
        asked = write_question(found) + (f", ± {Metric.parse(metric).write(margin)}" if margin else "")
        lines.append(
            f"| {kind} | {metric} | {asked} | {found.finding} | {write_interval(metric, found)} | {found.e_value:.3g} "
            f"| {found.seeds} |"
        )
    trained = sorted({f"torch {one.torch}" for one in ruling.values if one.torch})
    lines += [
        "",
        f"Registered {registration.time[:10]} (digest {registration.digest[:8]}), arms of `{section.sweep}`, "
        f"{', '.join(trained)}. Again: `wb claim claims/{name}` trains, "
        f"`wb claim claims/{name} --from docs/measured/claims` rules on what was kept.",
        *(f"\n{line}" for line in registration.remarks),
        *(f"\nNot counted: {line}" for line in ruling.left_out),
    ]
    return "\n".join(lines)


def draw_rows(rows: Sequence[tuple[str, str, Row]], label: str) -> Canvas:
    """Draw for each row two lines of words, and a dot a seed, the sequence and the margin about 0, on its own scale."""
    high, middle, half = 62, 590, 170
    canvas = Canvas(1000, 34 + high * len(rows), label)
    for number, (title, below, (_, metric, found, differences)) in enumerate(rows):
        y = 42 + high * number
        bounds = [x for x in (found.low, found.high) if abs(x) != float("inf")]
        margin = found.question.margin or 0.0
        scale = half / (1.1 * max([abs(x) for x in (*bounds, *differences, margin)] or [1.0]) or 1.0)
        canvas.text(20, y, title, "title")
        canvas.text(20, y + 18, below, "quiet")
        if margin:
            canvas.box(middle - margin * scale, y - 16, 2 * margin * scale, 36, "none", 2)
        canvas.line([(middle, y - 20), (middle, y + 24)], "rule")
        colour = {"supported": "three", "refuted": "two"}.get(found.finding, "one")
        if bounds:
            canvas.line([(middle + found.low * scale, y + 2), (middle + found.high * scale, y + 2)], f"line-{colour}")
        for x in differences:
            canvas.box(middle + x * scale - 3, y - 1, 6, 6, colour, 3)
        canvas.text(980, y, found.finding, "end")
        canvas.text(980, y + 18, write_interval(metric, found), "end quiet")
    return canvas


def draw_claim(name: str, ruling: Ruling) -> Canvas:
    rows = [
        (f"{kind}: {metric}", f"{found.question.a} − {found.question.b}", (kind, metric, found, values))
        for kind, metric, found, values in list_rows(ruling)
    ]
    return draw_rows(rows, f"Differences within seeds of {name}")


def draw_summary(rulings: dict[str, Ruling]) -> Canvas:
    """Draw the endpoints of every claim whose controls held; of a blind one there is nothing to see."""
    rows = [
        (f"{name}: {ruling.judgement.verdict}", f"{row[1]}, {row[2].question.a} − {row[2].question.b}", row)
        for name, ruling in rulings.items()
        if ruling.judgement.verdict != "blind"
        for row in list_rows(ruling)[: len(ruling.claim.section.endpoint)]
    ]
    return draw_rows(rows, "The claims that were put to the test: differences within seeds, and their verdicts")


def draw_lineup() -> Canvas:
    """Draw for each objective and column its difference from CLIP with its 95 % interval; a column has one scale."""
    (_, *arms), columns = read_columns(LINEUP)  # CLIP, the first, is the line that all are compared with
    wide, left, top = 172, 122, 62
    canvas = Canvas(left + wide * len(columns) + 10, top + 26 * len(arms) + 20, "The line-up: differences from CLIP")
    for row, arm in enumerate(arms):
        canvas.text(20, top + 26 * row + 21, arm, "code")
    for place, (column, (*_, title)) in enumerate(zip(columns, LINEUP, strict=True)):
        middle = left + wide * (place + 0.5)
        told = [x for cell in column.values() if cell.difference is not None for x in (cell.low, cell.high)]
        most = max([abs(x) for x in told if not math.isnan(x)] or [1.0])
        canvas.text(middle, 28, title, "middle")
        canvas.text(middle, 46, f"± {most:.0f} points", "middle quiet")
        canvas.line([(middle, top), (middle, top + 26 * len(arms))], "rule")
        for row, arm in enumerate(arms):
            cell = column.get(arm)
            if cell and cell.difference is not None:
                y, scale = top + 26 * row + 16, 0.46 * wide / most
                colour = "three" if cell.low > 0 else "two" if cell.high < 0 else "one"
                if not math.isnan(cell.low):
                    canvas.line([(middle + x * scale, y) for x in (cell.low, cell.high)], f"line-{colour}")
                canvas.box(middle + cell.difference * scale - 4, y - 4, 8, 8, colour, 4)
    return canvas


def write_csv(rulings: dict[str, Ruling]) -> str:
    """Write every answer as a line of a CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = "claim verdict kind metric a b expect margin finding estimate low high e_value seeds registered digest"
    writer.writerow(head.split())
    for name, ruling in rulings.items():
        for kind, metric, found, _ in list_rows(ruling):
            question, registration = found.question, ruling.registration
            numbers = (found.estimate, found.low, found.high, found.e_value)
            writer.writerow([
                name, ruling.judgement.verdict, kind, metric, question.a, question.b, question.expect, question.margin,
                found.finding, *(f"{x:.6g}" if x is not None else "" for x in numbers), found.seeds,
                registration.time, registration.digest,
            ])  # fmt: skip
    return text.getvalue()


def fill(page: str, rulings: dict[str, Ruling]) -> str:
    """Fill the blocks of the page. Raises SystemExit for a claim that has values and no block, or the reverse."""
    blocks: dict[str, Callable[[], str]] = {
        "summary": lambda: write_summary(rulings),
        "lineup": lambda: write_columns("objective", LINEUP),
        "mechanism": lambda: write_columns("arm", MECHANISM),
        "words": write_words,
    }
    blocks |= {f"claim {name}": lambda n=name, r=ruling: write_claim(n, r) for name, ruling in rulings.items()}  # type: ignore[misc]
    there = re.findall(r"<!-- (summary|lineup|mechanism|words|claim \w+) -->", page)
    if sorted(there) != sorted(blocks):
        raise SystemExit(f"findings.md has blocks of {sorted(there)}, docs/measured/claims values of {sorted(blocks)}")
    return re.sub(
        r"(<!-- (summary|lineup|mechanism|words|claim \w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{blocks[found[2]]()}\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


def write_all() -> dict[Path, str]:
    """Make every file that this script writes, {path: text}."""
    rulings = rule_all()
    page = DOCS / "findings.md"
    return {
        page: fill(page.read_text(encoding="utf-8"), rulings),
        DOCS / "measured" / "findings.csv": write_csv(rulings),
        DOCS / "figures" / "findings.svg": draw_summary(rulings).svg(),
        FIGURES / "lineup.svg": draw_lineup().svg(),
        **{FIGURES / f"{name}.svg": draw_claim(name, ruling).svg() for name, ruling in rulings.items()},
    }


if __name__ == "__main__":
    sys.exit(write(write_all(), "just findings"))
