"""`wb compare`: what it prints, in which formats, and a page that needs no network."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_runs import METRIC, make_run
from json_keys import assert_keys

from workbench.cli import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        make_run(folder / f"a&b-seed{seed}", seed, [0.1, 0.5 + 0.1 * seed], objective={"name": "clip"})
        make_run(folder / f"confu-seed{seed}", seed, [0.1, 0.53 + 0.11 * seed])
    return folder


def wb(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


def test_json_has_what_scripts_read(folder: Path) -> None:
    done = wb(folder, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert_keys("compare", found)
    assert_keys("compare: differences", found["differences"])
    assert found["metric"] == METRIC
    assert found["arms"]["confu"] == {"mean": pytest.approx(0.64), "se": pytest.approx(0.11 / 3**0.5), "n": 3}
    (difference,) = found["differences"]
    assert (difference["a"], difference["b"], difference["n"]) == ("confu", "a&b", 3)
    assert difference["mean"] == pytest.approx(0.04)
    assert 0 < difference["low"] < difference["mean"] < difference["high"]
    assert found["costs"]["confu"] == {"seconds": 0.5, "samples_per_second": 64.0, "peak_bytes": 3 * 2**20}
    assert set(found["recipes"]["objective.name"]) == {"a&b", "confu"}


@pytest.mark.slow
def test_every_format_has_the_numbers(folder: Path, tmp_path: Path) -> None:
    table = wb(folder).stdout
    assert "confu beats a&b by 4.00 ± 0.58 points (3 seeds; the interval excludes 0)" in table
    assert "objective.name" in table
    assert "3 MiB" in table
    markdown = wb(folder, "--format", "markdown").stdout
    assert re.search(r"^\| confu − a&b \| .* \| \+4.00 \| 0.58 \| \+1.52 … \+6.48 \| 3 \|$", markdown, re.MULTILINE)
    latex = wb(folder, "--format", "latex").stdout
    assert r"confu $-$ a\&b & synthetic/accuracy (last, points) & +4.00 & 0.58 & +1.52 \dots{} +6.48 & 3 \\" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    printed = wb(folder, "--format", "csv", "--csv", tmp_path / "new" / "c.csv").stdout
    assert (tmp_path / "new" / "c.csv").read_text() == printed
    rows = [row for row in csv.DictReader(io.StringIO(printed)) if row["what"] == "difference" and row["at"] == "last"]
    assert [(row["a"], row["b"], row["n"], float(row["mean"])) for row in rows] == [
        ("confu", "a&b", "3", pytest.approx(0.04))
    ]


class Page(HTMLParser):
    """Collects what a page would load, and the text of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action") and not (value or "").startswith(("#", "data:")):
                self.loads.append(f"{tag} {name}={value}")


@pytest.mark.slow
def test_the_page_needs_nothing_beside_itself(folder: Path, tmp_path: Path) -> None:
    done = wb(folder, "--html", tmp_path / "page.html", "--plot", tmp_path / "plot.png", "--json")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.loads
    assert "link" not in page.tags
    assert not re.findall(r"@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert page.tags.count("table") == 4
    assert "svg" in page.tags
    assert "a&amp;b" in text
    assert "a&b" not in text.partition("<svg")[0]
    assert "@media (prefers-color-scheme: dark)" in text
    assert '<th scope="col" class="text">metric</th><th scope="col">mean</th>' in text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_one_message(folder: Path, tmp_path: Path) -> None:
    done = wb(folder, "--plot", tmp_path / "plot.gif")
    assert done.exit_code == 1
    assert "ends in .png, .svg, .pdf" in done.stderr
    done = wb(tmp_path / "nowhere")
    assert done.exit_code == 1
    assert "is no run folder" in done.stderr
