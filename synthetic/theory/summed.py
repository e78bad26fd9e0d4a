"""The least InfoNCE of a critic that adds two scores, g(x, z) + h(y, z): what late fusion can reach at a finite batch.

The best critic of all, the logarithm of a density ratio, is rarely such a sum, and no closed form of the best sum is
known. But InfoNCE is convex in the table of scores (a log-sum-exp of linear functions, less a linear one), hence in the
tables g and h: a descent finds the least value there is.

 1. One direction costs E[log(e^f(q, c_1) + ... + e^f(q, c_B))] - E f(q, c_1), c_1 being the anchor's own candidate.
 2. The logarithm is an integral over t, as in `synthetic.theory.optima`, under which the expectation factors:
    E log sum = int_0^inf (e^-t - E[e^(-t e^f(q, c_1))] E[e^(-t e^f(q, c))]^(B-1)) / t dt, by the trapezoidal rule.
 3. The two directions, from (x, y) to z and back, are averaged over one and the same table, as in training.

The trap: the least value may only be approached as scores of impossible triples go to minus infinity. A score that is
`DEEPEST` below the greatest counts as no deeper.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from synthetic.theory.joint import Joint
from synthetic.theory.optima import Optimum

if TYPE_CHECKING:
    from jaxtyping import Float64
    from torch import Tensor

DEEPEST = 30.0
"""nats below the greatest score: such a candidate weighs 1e-13 of the best one"""
STEP = 0.5
"""of the trapezoidal rule in log t, which errs by about e^(-pi^2 / step): see `synthetic.theory.optima`"""


def summed_optimum(joint: Joint, first: str, second: str, target: str, batch: int) -> Optimum:
    """Compute the optimum of symmetric InfoNCE between (first, second) and the target, for a sum of two scores.

    Raises ValueError when `batch` < 2 or a modality is unknown.
    """
    if batch < 2:
        raise ValueError(f"batch ({batch}) has no negatives: at least 2 are needed")
    three = joint.marginal((first, second, target))
    p = torch.zeros(tuple(three.codes.values()), dtype=torch.float64)
    p[tuple(torch.from_numpy(three.support.T))] = torch.from_numpy(three.probability)
    g, h = (torch.zeros(n, p.shape[2], dtype=torch.float64, requires_grad=True) for n in p.shape[:2])
    descent = torch.optim.LBFGS(
        [g, h],
        max_iter=200,
        history_size=30,
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        descent.zero_grad()
        loss = infonce_of(g[:, None] + h, p, batch)
        loss.backward()
        return loss

    descent.step(closure)
    with torch.no_grad():
        return Optimum(float(infonce_of(g[:, None] + h, p, batch)), math.log(batch))


def infonce_of(
    scores: Float64[Tensor, "x y z"], probability: Float64[Tensor, "x y z"], batch: int
) -> Float64[Tensor, ""]:
    """Compute the expected symmetric InfoNCE of a table of scores of (x, y) with z."""
    f, p = scores.flatten(0, 1), probability.flatten(0, 1)
    seen = p.sum(1) > 0
    f, p = f[seen], p[seen]
    f = (f - f.max()).clamp(min=-DEEPEST)  # neither direction changes by a constant
    return (_one_direction(f, p, batch) + _one_direction(f.T, p.T, batch)) / 2


def _one_direction(f: Float64[Tensor, "q c"], p: Float64[Tensor, "q c"], batch: int) -> Float64[Tensor, ""]:
    """Compute steps 1 and 2 for scores at most 0, anchors in rows."""
    # below the first node the integrand is about t (E sum - 1) < 1e-16, above the last every term is
    t = torch.exp(torch.arange(-40 - math.log(batch), math.log(40) + DEEPEST, STEP, dtype=f.dtype))
    decay = torch.exp(-t[:, None, None] * f.exp())  # nodes x q x c
    negative = (decay @ p.sum(0)).clamp(max=1)
    positive = torch.einsum("tqc,qc->tq", decay, p)
    log_sum = STEP * (torch.exp(-t) - (positive * negative ** (batch - 1)).sum(1)).sum()
    return log_sum - (p * f).sum()
