"""Durations: units become steps, texts read back, an interval of 0 is never."""

import math

import pytest

from workbench.recipe.duration import NEVER, Span, parse, parse_clock, parse_interval
from workbench.recipe.schema import load_recipe
from workbench.runs.train import train


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


@pytest.mark.parametrize("text", ["2.5 epochs", "1e6 samples", "1234567 steps", "0.123456789012 epochs", "3e-7 epochs"])
def test_text_form_reads_back(text: str) -> None:
    span = parse(text)
    assert span.value == float(text.split()[0])
    assert parse(str(span)) == span


def test_an_interval_of_nothing_is_never_and_a_tiny_one_every_step() -> None:
    every = {"0 epochs": NEVER, "0 steps": NEVER, "0.0 samples": NEVER, "1e-12 epochs": 1, "7 steps": 7}
    for text, steps in every.items():
        assert parse_interval(text).steps(batch=256, epoch_steps=20) == steps
    assert parse("0 steps").steps(batch=256, epoch_steps=20) == 0


@pytest.mark.parametrize(("every", "evaluated"), [("0 epochs", [0, 6]), ("0 steps", [0, 6]), ("4 steps", [0, 4, 6])])
def test_never_leaves_the_first_and_the_last_evaluation(every: str, evaluated: list[int]) -> None:
    small = ("data.samples=64", "data.held_out=16", "train.batch=32", "train.for=6 steps", "eval.start=true")
    recipe = load_recipe("synth/clip.yaml", (*small, "eval.synthetic.batches=2", f"eval.every={every}"))
    records = train(recipe).records
    assert [r["step"] for r in records if any(name.startswith("eval/") for name in r)] == evaluated


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
