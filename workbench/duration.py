"""Times with units: `30 epochs`, `500 steps`, `1e6 samples`. A bare number is an error: nobody remembers of what."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

UNITS = ("steps", "epochs", "samples")


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


def parse(text: Any) -> Span:
    """Raises ValueError with the value and an example."""
    if isinstance(text, Span):
        return text
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-z]+)\s*", str(text))
    unit = match[2] if match else ""
    unit = unit if unit.endswith("s") else unit + "s"
    if not match or unit not in UNITS:
        raise ValueError(
            f"{text!r} is not a duration: write a number and a unit, as '30 epochs', '500 steps' or '1e6 samples'"
        )
    return Span(float(match[1]), unit)


Duration = Annotated[Span, BeforeValidator(parse), PlainSerializer(str)]
