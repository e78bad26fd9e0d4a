"""What an export says of itself: on the terminal, as JSON, on its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from workbench.runs.exported import Format

LARGEST = 1e-5
"""the largest difference that a coordinate of a unit row may have"""


@dataclass(frozen=True)
class Report:
    """What was written, and how far it is from the run."""

    run: str
    step: int
    format: Format
    out: str
    package: str
    version: str | None
    samples: str
    """where the items come from on which both were compared"""
    items: int
    differences: Mapping[str, float]
    """{side: the largest difference of a coordinate}"""
    prepared: Mapping[str, float]
    """{side: the same}, of raw items as the client prepares them; its resizing of pictures may round otherwise"""
    dropped: Sequence[str]
    files: Sequence[str]

    @property
    def largest(self) -> float:
        return max(self.differences.values())

    def as_dict(self) -> dict[str, object]:
        """Give all that was said, and the largest difference."""
        return {**asdict(self), "largest_difference": self.largest}
