import math

import pytest

from workbench.duration import Span, parse


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
