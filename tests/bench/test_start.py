"""What the measurements of starts and of small steps write; neither starts a process nor is a time asserted."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from workbench.bench import small_steps, start


def test_a_program_counts_with_the_median_of_the_rounds_behind_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"import torch": iter([9.0, 2.0, 2.5, 2.0]), "ls": iter([9.0, 0.5, 0.25, 1.0])}
    monkeypatch.setattr(start, "list_programs", lambda _: {name: [name] for name in seconds})
    monkeypatch.setattr(start, "measure", lambda arguments, checkout=None: next(seconds[arguments[0]]))
    done = CliRunner().invoke(start.main, ["--out", str(tmp_path / "start.csv"), "--rounds", "3"])
    assert done.exit_code == 0, done.output
    assert "| `import torch` | 2.00 | 1.00 |" in done.stdout
    assert "| `ls` | 0.50 | 0.25 |" in done.stdout
    lines = (tmp_path / "start.csv").read_text().splitlines()
    assert lines[0] == "program,round,cpu,date,torch,machine"
    assert len(lines) == 7


def test_small_steps_of_two_checkouts_are_compared_by_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_steps, "BATCHES", (8,))
    monkeypatch.setattr(small_steps, "OBJECTIVES", ("clip",))
    found, times = [], iter([6.0, 2.0, 4.0, 4.0])

    def measure_in(checkout: Path, objective: str, batch: int) -> float:
        found.append((checkout == tmp_path, objective, batch))
        return next(times)

    monkeypatch.setattr(small_steps, "measure_in", measure_in)
    arguments = ["--out", str(tmp_path / "steps.csv"), "--rounds", "2", "--other", str(tmp_path), "--name", "before"]
    done = CliRunner().invoke(small_steps.main, arguments)
    assert done.exit_code == 0, done.output
    assert found == [(True, "clip", 8), (False, "clip", 8)] * 2
    assert "| clip | 8 | 5.0 | 3.0 | 2.00 |" in done.stdout  # of 6 / 2 and 4 / 4


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["confu", "ito"])
def test_a_small_step_is_that_of_a_run(objective: str) -> None:
    engine, batches = small_steps.prepare(objective, 8)
    engine._take_step(batches)
    assert engine.step == 1
    assert "Evaluation" not in {type(callback).__name__ for callback in engine.callbacks}
