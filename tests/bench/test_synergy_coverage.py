"""The count of intervals that hold the exact value: its lines, its file, and that all tasks are there."""

from pathlib import Path

from workbench.bench.rows import read, write
from workbench.bench.synergy import TASKS, Measured, missing, table
from workbench.recipe.component import names


def rows_of(repetition: int, gain: tuple[float, float, float], exact: float | None = 0.5) -> list[Measured]:
    common = ("xor", repetition, "c", "a+b", 400, 16)
    inside = [
        Measured(*common, critic, exact, 0.5, 0.4, 0.6, "fuse") for critic in ("first", "second", "summed", "fused")
    ]
    return [*inside, Measured(*common, "gain", exact, *gain, "fuse" if gain[1] > 0.2 else "cannot tell")]


def test_every_task_is_asked() -> None:
    assert set(TASKS) == set(names("task"))


def test_a_line_says_what_was_found_and_how_often_it_held() -> None:
    rows = rows_of(0, (0.5, 0.4, 0.6)) + rows_of(1, (0.3, 0.1, 0.4))
    said = table(rows)
    assert "| xor | a+b → c | 2 | 0.500 | 0.400 [0.250, 0.500] | 4/4, 2/2, 2/2, 1/2 | fuse 1 · cannot tell 1 |" in said
    assert said.endswith("9 of 10 intervals hold the exact value.")


def test_a_task_without_an_exact_value_is_shown_and_not_counted() -> None:
    said = table(rows_of(0, (0.5, 0.4, 0.6), exact=None))
    assert "no exact value" in said
    assert said.endswith("0 of 0 intervals hold the exact value.")


def test_it_goes_on_where_its_file_ends(tmp_path: Path) -> None:
    rows = rows_of(0, (0.5, 0.4, 0.6)) + rows_of(1, (0.3, 0.1, 0.4), exact=None)
    write(rows, tmp_path / "measured.csv")
    assert read(tmp_path / "measured.csv", Measured) == rows
    assert list(missing(rows, 3, ["xor", "and"])) == [("and", 0), ("and", 1), ("xor", 2), ("and", 2)]
