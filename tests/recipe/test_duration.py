import math

import pytest

from workbench.recipe.duration import Span, parse, parse_clock


@pytest.mark.parametrize(
    ("text", "steps"),
    [("30 epochs", 600), ("1 epoch", 20), ("500 steps", 500), ("1e6 samples", 3907), ("0.5 epochs", 10)],
)
def test_units_become_steps(text: str, steps: int) -> None:
    assert parse(text).steps(batch=256, epoch_steps=20) == steps


def test_samples_round_up_to_whole_batches() -> None:
    assert Span(257, "samples").steps(batch=256, epoch_steps=1) == math.ceil(257 / 256)


@pytest.mark.parametrize("text", [30, "30", "epochs", "30 fortnights", "-1 steps", None])
def test_a_number_without_a_unit_says_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="write a number and a unit"):
        parse(text)


def test_text_form_reads_back() -> None:
    span = parse("2.5 epochs")
    assert parse(str(span)) == span


@pytest.mark.parametrize(
    ("text", "seconds"), [("90 seconds", 90), ("30 minutes", 1800), ("1.5 hours", 5400), ("1 hour", 3600)]
)
def test_times_of_the_clock(text: str, seconds: float) -> None:
    clock = parse_clock(text)
    assert clock.seconds == seconds
    assert parse_clock(str(clock)) == clock


@pytest.mark.parametrize("text", [30, "30", "0 seconds", "30 steps", "-1 minutes", "1e999 hours"])
def test_a_time_of_no_clock_says_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="write it as '90 seconds'"):
        parse_clock(text)
