"""How a process begins and ends: garbage is looked for rarely until a training begins, and an end loses no line."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator

import pytest

from workbench import starting


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Record what would be done at the end of this process, and put its thresholds back."""
    done: list[object] = []
    before = gc.get_threshold()
    monkeypatch.setattr(atexit, "register", done.append)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: done.append("exit functions"))
    monkeypatch.setattr(os, "_exit", done.append)
    yield done
    gc.set_threshold(*before)


def test_garbage_is_looked_for_rarely_until_a_training_begins(process: list[object]) -> None:
    starting.collect_rarely()
    assert gc.get_threshold()[0] == starting.RARE > starting.USUAL[0]
    assert process == [gc.freeze]
    starting.collect_as_usual()
    assert gc.get_threshold() == starting.USUAL


def test_thresholds_of_a_program_that_calls_the_library_are_its_own(process: list[object]) -> None:
    gc.set_threshold(1234, 5, 6)
    starting.collect_as_usual()
    assert gc.get_threshold() == (1234, 5, 6)


@pytest.mark.parametrize(("code", "status"), [(None, 0), (2, 2)])
def test_a_command_leaves_behind_its_exit_functions(process: list[object], code: int | None, status: int) -> None:
    with pytest.raises(SystemExit):  # as os._exit returns here
        starting.leave(SystemExit(code))
    assert process == ["exit functions", status]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_the_shell_has_closed_is_left_alone(
    process: list[object], monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit):
        starting.leave(SystemExit(0))
    assert process == ["exit functions", 0]


def test_lines_that_cannot_be_written_are_told_by_python(
    process: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def flush(self) -> None:
            raise OSError("no space left")

    monkeypatch.setattr(sys, "stdout", Full())
    end = SystemExit(0)
    with pytest.raises(SystemExit) as raised:
        starting.leave(end)
    assert raised.value is end
    assert process == []
