"""Stages of a session that must end in time: each gets its share of what is left, and says what it did not reach.

Trap: time that a stage leaves over goes to the next ones, never back. Order stages by what must not be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class Deadline:
    """Knows how much time is left."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._clock, self._until = clock, clock() + seconds

    def left(self) -> float:
        """Returns the seconds that are left, negative when the deadline has passed."""
        return self._until - self._clock()


class Stop(Exception):
    """Ends a session, as nothing that follows would mean anything; the message says why."""


@dataclass(frozen=True)
class Stage:
    """Describes a part of a session."""

    name: str
    weight: float
    """its share of the time left, against the weights of the stages that follow"""
    run: Callable[[Deadline], list[str]]
    """does it and returns what it did not reach; raises Stop"""


@dataclass
class Timeline:
    """Records when the stages ran, what they did not reach, and what stopped them."""

    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """stage -> when it began, how long it took"""
    unreached: list[str] = field(default_factory=list)
    stopped: str = ""


def run_stages(
    stages: Sequence[Stage],
    seconds: float,
    tell: Callable[[float, str], object],
    clock: Callable[[], float] = time.monotonic,
) -> Timeline:
    """Runs one stage after the other; one that raises anything but Stop is reported as not reached, and the next runs.

    tell(seconds since the start, text): called as things happen.
    """
    start, whole = clock(), Deadline(seconds, clock)
    timeline = Timeline()
    for i, stage in enumerate(stages):
        if timeline.stopped or whole.left() <= 0:
            timeline.unreached.append(f"{stage.name}: {'not begun' if timeline.stopped else 'no time was left'}")
            continue
        share = whole.left() * stage.weight / sum(later.weight for later in stages[i:])
        began = clock()
        tell(began - start, f"{stage.name} (up to {share:.0f} s)")
        try:
            timeline.unreached += [f"{stage.name}: {what}" for what in stage.run(Deadline(share, clock))]
        except Stop as stop:
            timeline.stopped = f"{stage.name}: {stop}"
            tell(clock() - start, f"STOPPED: {timeline.stopped}")
        except Exception as error:
            timeline.unreached.append(f"{stage.name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            tell(clock() - start, timeline.unreached[-1])
        timeline.seconds[stage.name] = (began - start, clock() - began)
    return timeline
