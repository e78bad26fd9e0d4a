"""Has a run on a synthetic task learned what there is to learn? The loss is judged, never the accuracy.

The trap: blind by loss is not chance by accuracy. A sum of pair scores that knows nothing of the joint can still
be right well above chance, so only the loss against its exact optimum says what was learned. Losses are in nats.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["passed", "blind", "worse than blind", "partial", "below floor", "unknown"]

PASSES = 0.95
"""share of the learnable nats"""
_ROUNDING = 1e-5  # of a float32 loss, over the no-information loss: the s.e. of a constant loss allows for none


def recovered(loss: float, floor: float, no_information: float) -> float | None:
    """Compute the share of the learnable nats that the loss has recovered: 0 knows nothing, 1 is the optimum.

    None when there is nothing to recover, the floor being the no-information loss.
    """
    learnable = no_information - floor
    if abs(learnable) <= _ROUNDING * abs(no_information):
        return None
    return (no_information - loss) / learnable


def verdict(
    loss: float,
    loss_se: float,
    floor: float | None,
    no_information: float | None,
    total_weight: float,
) -> Verdict:
    """Judge a loss: `passed`, `partial`, `blind` to what information there is, `worse than blind` where it lies above
    the loss of knowing nothing (as of a model that has learned its training samples by heart), or `below floor`, which
    only a bug reaches.

    Args:
        loss: mean on fresh validation samples, at the training batch and with sample ids
        loss_se: standard error of that mean
        floor: loss of the optimal critic at this batch; None when it is not known
        no_information: loss of a critic that knows nothing; None when it is not known
        total_weight: sum of the weights of the objective's terms
    """
    if floor is None or no_information is None:
        return "unknown"
    if loss < floor - 3 * loss_se - _ROUNDING * abs(no_information):
        return "below floor"
    if (recovered(loss, floor, no_information) or 0) >= PASSES:
        return "passed"
    if abs(loss - no_information) <= 0.02 * total_weight:
        return "blind"
    return "partial" if loss < no_information else "worse than blind"
