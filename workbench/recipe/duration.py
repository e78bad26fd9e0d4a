"""Times with units: `30 epochs`, `500 steps`, `1e6 samples`; of the clock: `90 seconds`, `30 minutes`, `2 hours`.

A bare number is an error: nobody remembers of what.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

UNITS = ("steps", "epochs", "samples")
SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}


@dataclass(frozen=True)
class Span:
    """A length of training in one of UNITS."""

    value: float
    unit: str

    def steps(self, batch: int, epoch_steps: int) -> int:
        """Optimizer steps, rounded up; `epoch_steps` whole batches make an epoch."""
        per_unit = {"steps": 1.0, "epochs": float(epoch_steps), "samples": 1.0 / batch}[self.unit]
        return math.ceil(self.value * per_unit - 1e-9)

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


@dataclass(frozen=True)
class Clock:
    """A time of the clock in one of SECONDS."""

    value: float
    unit: str

    @property
    def seconds(self) -> float:
        return self.value * SECONDS[self.unit]

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


def parse(text: Any) -> Span:
    """Raises ValueError with the value and an example."""
    if isinstance(text, Span):
        return text
    found = _number_and_unit(text, UNITS)
    if found is None:
        raise ValueError(
            f"{text!r} is not a duration: write a number and a unit, as '30 epochs', '500 steps' or '1e6 samples'"
        )
    return Span(*found)


def parse_clock(text: Any) -> Clock:
    """Raises ValueError with the value and an example."""
    if isinstance(text, Clock):
        return text
    found = _number_and_unit(text, SECONDS)
    if found is None or not 0 < found[0] < math.inf:
        raise ValueError(f"{text!r} is no time to wait: write it as '90 seconds', '30 minutes' or '2 hours'")
    return Clock(*found)


def _number_and_unit(text: Any, units: Collection[str]) -> tuple[float, str] | None:
    """None where it is not a number and one of the units, in the singular or the plural."""
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-z]+)\s*", str(text))
    unit = match[2] if match else ""
    unit = unit if unit.endswith("s") else unit + "s"
    return (float(match[1]), unit) if match and unit in units else None


Duration = Annotated[Span, BeforeValidator(parse), PlainSerializer(str)]
Timeout = Annotated[Clock, BeforeValidator(parse_clock), PlainSerializer(str)]
