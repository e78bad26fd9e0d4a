"""The matrix: what a cell says of its runs, what a row predicts, and that no number is lost on the way out."""

from __future__ import annotations

import csv
import random
import statistics
from pathlib import Path

import pytest
from matplotlib.colors import same_color
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from rich.console import Console

from workbench.errors import RecipeError
from workbench.recipe.component import names
from workbench.studies import matrix_report, predictions
from workbench.studies.arms import Result
from workbench.studies.matrix import LETTERS, OBJECTIVES, Cell, Matrix
from workbench.studies.matrix_report import MARK
from workbench.studies.predictions import Row

XOR = Row("xor d=3", predicted={"clip": "F", "symile": "P", "gram": "*", "hub": 0.25})


def result(
    verdict: str = "passed", accuracy: float = 1.0, recovered: float | None = 0.99, seed: int = 0, bayes: float = 1.0
) -> Result:
    return Result("any", seed, accuracy, 0.125, bayes, 3.5, 0.01, 3.4, 5.5, recovered, verdict, 1.5)


def cell(objective: str, *runs: Result, row: Row = XOR) -> Cell:
    return Cell(row, objective, runs=list(runs))


def test_every_task_has_a_row_and_rows_are_told_apart() -> None:
    variants = predictions.read_variants()
    rows = [row for v in variants for row in v.rows]
    assert {v.task["name"] for v in variants} == set(names("task"))
    assert len({row.name for row in rows}) == len(rows)
    assert len({v.folder for v in variants}) == len(variants)
    assert {v.task["name"] for v in variants if v.rendered} == {"image-text-xor", "image-text-match", "trifeature"}
    for row in rows:
        assert set(row.predicted) <= set(OBJECTIVES)
        assert all(p in ("P", "F", "*") or isinstance(p, float) for p in row.predicted.values())
    said = {row.name: row.predicted for row in rows}
    assert said["xor d=3"]["clip"] == said["parity M=4"]["confu"] == said["redundancy one-to-one"]["symile"] == "F"
    assert said["xor d=3"]["gram"] == "*"  # never assert that GRAM fails XOR


def test_tasks_are_selected_by_their_name_or_that_of_a_row() -> None:
    assert [v.task["name"] for v in predictions.select((), rendered=False)].count("trifeature") == 0
    assert [v.task["name"] for v in predictions.select((), rendered=True)].count("trifeature") == 1
    assert [v.folder for v in predictions.select(["xor"], rendered=False)] == ["xor-bits=3", "xor-bits=1"]
    assert [v.folder for v in predictions.select(["xor d=1", "and"], rendered=False)] == ["xor-bits=1", "and"]
    with pytest.raises(ValueError, match="no task 'xorr' in the matrix; did you mean 'xor'"):
        predictions.select(["xorr"], rendered=False)


@pytest.mark.parametrize(
    ("objective", "runs", "letter", "agrees"),
    [
        ("symile", [result(), result()], "P", True),
        ("symile", [result(), result(), result("partial")], "P 2/3", False),
        ("clip", [result("blind", 0.2, None)], "F", True),
        ("clip", [result("partial", 0.2)], "part", False),
        ("gram", [result("partial")], "part", None),
        ("confu", [result()], "P", None),
        ("symile", [result("unknown", 0.95, None)], "P†", True),
        ("symile", [result("unknown", 0.5, None)], "?", None),
        ("hub", [result("blind", 0.27, None)], "F", True),  # .27 is .25 within .02 + 3 x .011
        ("hub", [result("blind", 0.31, None)], "F", False),
        ("symile", [], "error", None),
    ],
)
def test_a_cell_says_what_its_seeds_share(objective: str, runs: list[Result], letter: str, agrees: bool | None) -> None:
    measured = cell(objective, *runs)
    assert measured.letter == letter
    assert measured.agrees is agrees


@pytest.mark.parametrize(
    ("accuracy", "bayes", "letter"),  # chance is .125
    [
        (0.92, 1.0, "P"), (0.90, 1.0, "part"), (0.35, 1.0, "part"), (0.34, 1.0, "F"),
        (0.83, 0.9, "P"), (0.82, 0.9, "part"), (0.32, 0.9, "part"), (0.31, 0.9, "F"),
    ],
)  # fmt: skip
def test_accuracies_are_judged_between_chance_and_bayes(accuracy: float, bayes: float, letter: str) -> None:
    row = Row("r", by="accuracy")
    assert cell("clip", result("blind", accuracy, bayes=bayes), row=row).letter == letter


def test_what_a_row_predicts_from_one_modality_is_known_exactly() -> None:
    (variant,) = (v for v in predictions.read_variants() if v.task["name"] == "redundancy")
    joint, single = variant.rows
    noise = random.uniform(0.05, 0.6)
    override = (f"data.task.noise={noise}",)
    differ = 2 * noise * (1 - noise) + noise**2 * 14 / 15  # K = 16
    truth = variant.find_truth(single, "clip", override)
    assert truth.given == ("a",)
    assert truth.bayes_accuracy == pytest.approx(max(1 - differ, differ / 15)), noise
    assert variant.find_truth(joint, "confu", override).given == ("a", "b")
    assert set(variant.recipe("clip", 0).eval.evaluators) == {"synthetic", "synthetic_from_a"}


def test_an_objective_that_cannot_do_a_task_is_left_out_and_says_why(tmp_path: Path) -> None:
    variants = predictions.select(["parity", "hub emergent", "latent-synergy"], rendered=False)
    found = Matrix(variants, ("clip", "symile", "triangle"), 2, (), tmp_path)
    left_out = {key: cell.left_out for key, cell in found.cells.items() if cell.left_out}
    assert set(left_out) == {
        ("parity M=4", "triangle"),
        *((row, o) for row in ("hub emergent", "latent-synergy") for o in ("symile", "triangle")),
    }
    assert "three modalities, the model has 4" in left_out["parity M=4", "triangle"]
    assert [(v.task["name"], o, job.recipe.seed) for v, o, job in found.runs] == [
        (task, objective, seed)
        for task, objective in (("parity", "clip"), ("parity", "symile"), ("hub", "clip"), ("latent-synergy", "clip"))
        for seed in (0, 1)
    ]
    assert len({job.folder for *_, job in found.runs}) == 8
    with pytest.raises(RecipeError, match="did you mean 'clip'"):
        _ = Matrix(variants, ("clipp",), 1, (), tmp_path).cells


def some_cells() -> dict[tuple[str, str], Cell]:
    cells = [
        cell("clip", *(result("blind", random.random(), None, seed) for seed in range(3))),
        cell("symile", *(result("blind", random.random(), random.random(), seed) for seed in range(3))),
        cell("gram", result("unknown", 0.3, None)),
        Cell(XOR, "triangle", left_out="it takes three"),
        Cell(XOR, "confu", errors={0: "it broke", 2: "it broke", 1: "it fell"}),
    ]
    return {(XOR.name, c.objective): c for c in cells}


def test_the_csv_has_every_number(tmp_path: Path) -> None:
    cells = some_cells()
    matrix_report.write_csv(cells.values(), tmp_path / "new" / "m.csv")
    with (tmp_path / "new" / "m.csv").open() as file:
        lines = {line["objective"]: line for line in csv.DictReader(file)}
    assert list(lines) == [o for _, o in cells]
    accuracies = [run.accuracy for run in cells[XOR.name, "clip"].runs]
    assert float(lines["clip"]["accuracy"]) == pytest.approx(sum(accuracies) / 3, rel=1e-12)
    assert float(lines["clip"]["accuracy_se"]) == pytest.approx(statistics.stdev(accuracies) / 3**0.5, rel=1e-12)
    assert [lines["clip"][k] for k in ("predicted", "verdict", "agrees", "recovered")] == ["F", "blind", "True", ""]
    assert (lines["symile"]["agrees"], lines["gram"]["agrees"]) == ("False", "")
    assert (lines["triangle"]["verdict"], lines["triangle"]["note"]) == ("left out", "it takes three")
    assert lines["confu"]["note"] == "seed 0, 2: it broke; seed 1: it fell"


def test_the_table_and_the_heat_map_mark_what_differs(tmp_path: Path) -> None:
    cells = some_cells()
    console = Console(width=160, record=True, file=(tmp_path / "out").open("w"))
    console.print(matrix_report.table(cells, "title"))
    text = console.export_text()
    assert text.count("≠") == 1
    for written in ("F (F)", "F (P) ≠", "? (*)", "–¹", "error²"):
        assert written in text
    assert matrix_report.notes(cells.values()) == {
        "it takes three": "¹",
        "seed 0, 2: it broke; seed 1: it fell": "²",
    }
    figure = matrix_report.heat_map(cells, "title")
    (axes,) = figure.axes
    tiles = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
    assert [same_color(tile.get_edgecolor(), MARK) for tile in tiles] == [False, True, False, False, False]
    figure.savefig(tmp_path / "m.png")
    assert min(Image.open(tmp_path / "m.png").size) > 300


def test_numbers_are_short() -> None:
    assert [matrix_report.short(x, 2) for x in (0.954, 1.0, 0.999, -0.004, -0.26, None)] == [
        ".95", "1.00", "1.00", ".00", "-.26", "-",
    ]  # fmt: skip
    assert set(LETTERS) >= {"passed", "blind", "partial", "below floor", "unknown"}


def test_every_verdict_can_be_drawn() -> None:
    """A verdict without a style was an error after the whole matrix had been trained."""
    assert {letter[0] for letter in LETTERS.values()} <= matrix_report.STYLES.keys()
