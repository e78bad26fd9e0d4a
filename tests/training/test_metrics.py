"""metrics.jsonl holds what was recorded, under its own names, without a gap, and a resume writes on behind its step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.training import metrics
from workbench.training.metrics import Best, Criterion, Metrics, read


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("on_device", [False, True])
def test_values_stand_under_their_names_whether_or_not_they_wait_on_a_device(tmp_path: Path, on_device: bool) -> None:
    file, heard = tmp_path / "metrics.jsonl", []
    buffer = Metrics(file, on_device=on_device)
    buffer.open(0)
    buffer.listeners.append(heard.append)
    wanted = []
    for step in range(1, 4):
        values = {"a": torch.tensor(1.5 * step), "clock": 0.25, "b": torch.tensor([2.5 * step])}
        buffer.record(step, 8 * step, values)
        wanted.append({"step": step, "samples": 8 * step, "a": 1.5 * step, "clock": 0.25, "b": 2.5 * step})
    assert lines(file) == ([] if on_device else wanted)  # a device is asked once a second, not at every step
    buffer.close()
    assert lines(file) == buffer.records == heard == wanted


def test_what_waits_on_a_device_is_written_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    buffer = Metrics(tmp_path / "metrics.jsonl", on_device=True)
    buffer.open(0)
    written = []
    for step, seconds in enumerate((0.1, 0.1, 0.9, 0.1, 1.0), 1):
        now += seconds
        buffer.record(step, step, {"a": torch.tensor(1.0)})
        written.append(len(lines(tmp_path / "metrics.jsonl")))
    assert written == [0, 0, 3, 3, 5]


def test_a_line_that_a_crash_cut_off_is_left_out_and_so_is_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "train/lo')
    assert read(file) == [{"step": 1}, {"step": 2}]
    assert read(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [0, 1, 2, 2]), (9, [0, 1, 2, 2, 3])])
def test_a_resume_keeps_the_lines_up_to_its_step_and_a_new_beginning_none(
    tmp_path: Path, step: int, kept: list[int]
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": s, "x": s / 3}) + "\n" for s in (0, 1, 2, 2, 3)))
    buffer = Metrics(file)
    buffer.open(step)
    assert lines(file) == buffer.earlier
    assert [record["step"] for record in buffer.earlier] == kept
    buffer.record(step + 1, 8, {"y": 1.0})
    buffer.close()
    assert [record["step"] for record in lines(file)] == [*kept, step + 1]


NAN = float("nan")


@pytest.mark.parametrize(
    ("criterion", "value", "best", "improves"),
    [
        ("a/recall", 0.2, None, True),
        ("a/recall", 0.2, Best("a/recall", 0.2, 1), False),
        ("a/recall", 0.3, Best("a/recall", 0.2, 1), True),
        ("a/median_rank", 0.3, Best("a/median_rank", 0.2, 1), False),
        ("max a/median_rank", 0.3, Best("a/median_rank", 0.2, 1), True),
        ("min a/recall", 0.1, Best("a/recall", 0.2, 1), True),
        # values of two metrics say nothing about each other
        ("a/recall", 0.2, Best("a/loss", 16.6, 1), True),
        # what is no number is neither better nor the best
        ("a/recall", 0.2, Best("a/recall", NAN, 1), True),
        ("a/recall", NAN, Best("a/recall", 0.2, 1), False),
        ("a/recall", NAN, None, False),
        ("a/recall", None, None, False),
    ],
)
def test_the_better_of_two_evaluations(criterion: str, value: float | None, best: Best | None, improves: bool) -> None:
    assert Criterion.parse(criterion).improves(value, best) == improves


def test_the_best_of_records_is_the_first_of_equals_whatever_is_no_number() -> None:
    values = {1: NAN, 2: 0.1, 3: 0.4, 4: NAN, 5: 0.4, 6: 0.3}
    records = [{"step": step, "eval/a/recall": value} for step, value in values.items()] + [
        {"step": 7, "train/loss": 9.0}
    ]
    assert Criterion("a/recall").best_of(records) == Best("a/recall", 0.4, 3)
    assert Criterion("a/recall").best_of(records[:1] + records[-1:]) is None
