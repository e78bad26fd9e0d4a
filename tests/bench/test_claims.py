"""The court's own trial: what counts as wrong, the fixed designs it is compared with, and the file it writes."""

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy import stats

from workbench.bench import claims
from workbench.bench.claims import Tried
from workbench.studies.court import Verdict


@pytest.mark.parametrize(
    ("truth", "wrong"),
    [
        (0.0, {"supported", "refuted"}),
        (-2.0, {"refuted", "no effect beyond the margin"}),
        (2.0, {"supported", "no effect beyond the margin"}),
        (-0.5, {"refuted"}),
    ],
)
def test_what_is_wrong(truth: float, wrong: set[str]) -> None:
    verdicts: tuple[Verdict, ...] = ("supported", "refuted", "no effect beyond the margin", "undecided", "blind")
    assert {verdict for verdict in verdicts if Tried(truth, "normal", verdict, 5).wrong} == wrong


def test_fixed_designs_are_those_of_a_power_table() -> None:
    assert claims.find_fixed(1.0) == 13
    assert claims.find_fixed(-2.0) == 5
    draws = stats.norm.rvs(1.0, size=(4000, 13), random_state=0)
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.91, abs=0.02)


def test_the_command_writes_a_line_for_each_truth_and_shape(tmp_path: Path) -> None:
    done = CliRunner().invoke(claims.main, ["--claims", "40", "--csv", str(tmp_path / "c.csv")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["truth"], row["shape"], row["claims"]) for row in rows] == [
        ("0.0", "all", "14"), ("-1.0", "all", "10"), ("-2.0", "all", "10"), ("2.0", "all", "6"),
        ("0.0", "normal", "5"), ("0.0", "heavy tails", "5"), ("0.0", "skewed", "4"), ("", "all", "40"),
    ]  # fmt: skip
    strong = next(row for row in rows if row["truth"] == "-2.0")
    assert float(strong["supported"]) == 1.0
    assert 5 <= float(strong["mean_seeds"]) < 10
    assert "| 0 | skewed | 4 |" in done.output
