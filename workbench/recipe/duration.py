"""Times with units: `30 epochs`, `500 steps`, `1e6 samples`; of the clock: `90 seconds`, `30 minutes`, `2 hours`.

A bare number is an error: nobody remembers of what. The trap: 0 as a length is nothing, as an interval it is never.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

UNITS = ("steps", "epochs", "samples")
SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
NEVER = sys.maxsize
"""steps of an interval of 0"""
LONGEST = 1e15
"""of a duration, in its unit; more is a slip of the pen, and step counts stay exact in a float"""


@dataclass(frozen=True)
class Span:
    """A length of training in one of UNITS."""

    value: float
    unit: str

    def steps(self, batch: int, epoch_steps: int) -> int:
        """Count the optimizer steps, rounded up; `epoch_steps` whole batches make an epoch."""
        per_unit = {"steps": 1.0, "epochs": float(epoch_steps), "samples": 1.0 / batch}[self.unit]
        return math.ceil(self.value * per_unit - 1e-9)

    def __str__(self) -> str:
        return f"{_number(self.value)} {self.unit}"


class Interval(Span):
    """The time from one evaluation, checkpoint or line of metrics to the next; `0 steps` is never."""

    def steps(self, batch: int, epoch_steps: int) -> int:
        """Count the optimizer steps between two of them, at least one; NEVER for 0."""
        return max(1, super().steps(batch, epoch_steps)) if self.value else NEVER


@dataclass(frozen=True)
class Clock:
    """A time of the clock in one of SECONDS."""

    value: float
    unit: str

    @property
    def seconds(self) -> float:
        return self.value * SECONDS[self.unit]

    def __str__(self) -> str:
        return f"{_number(self.value)} {self.unit}"


def parse(text: object) -> Span:
    """Read a length of training. Raises ValueError with the value and an example."""
    return text if isinstance(text, Span) else Span(*_read_training_time(text))


def parse_interval(text: object) -> Interval:
    """Read an interval. Raises ValueError with the value and an example."""
    if isinstance(text, Span):
        return Interval(text.value, text.unit)
    return Interval(*_read_training_time(text))


def parse_clock(text: object) -> Clock:
    """Read a time of the clock. Raises ValueError with the value and an example."""
    if isinstance(text, Clock):
        return text
    found = _number_and_unit(text, SECONDS)
    if found is None or not 0 < found[0] < LONGEST:
        raise ValueError(f"{text!r} is no time to wait: write it as '90 seconds', '30 minutes' or '2 hours'")
    return Clock(*found)


def _read_training_time(text: object) -> tuple[float, str]:
    found = _number_and_unit(text, UNITS)
    if found is None:
        raise ValueError(
            f"{text!r} is not a duration: write a number and a unit, as '30 epochs', '500 steps' or '1e6 samples'"
        )
    if found[0] > LONGEST:
        raise ValueError(f"{text!r} would never end: write at most {LONGEST:g} {found[1]}")
    return found


def _number(value: float) -> str:
    """Write the shortest text that reads back as this number."""
    short = f"{value:g}"
    return short if float(short) == value else f"{value:.17g}"


def _number_and_unit(text: object, units: Collection[str]) -> tuple[float, str] | None:
    """Split a text into a number and one of the units, in the singular or the plural; None where it is not that."""
    match = re.fullmatch(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([a-z]+)\s*", str(text))
    unit = match[2] if match else ""
    unit = unit if unit.endswith("s") else unit + "s"
    return (float(match[1]), unit) if match and unit in units else None


Duration = Annotated[Span, BeforeValidator(parse), PlainSerializer(str)]
Every = Annotated[Interval, BeforeValidator(parse_interval), PlainSerializer(str)]
Timeout = Annotated[Clock, BeforeValidator(parse_clock), PlainSerializer(str)]
