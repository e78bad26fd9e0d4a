"""The factor on cosines that a loss learns: one over the temperature.

The trap: a clamp in the forward pass has no gradient beyond its limit, and the momentum of an optimizer carries a scale
there: it would stay for ever. So the parameter is put back after every update, as open_clip's trainer does: between
1 and 100. Below 1 all logits are so near one another that the gradient of the embeddings vanishes with the scale, and a
collapsed model cannot come back.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from workbench.recipe.component import Section
from workbench.types import Objective


class Scale(Section):
    """The factor s on cosines (one over the temperature), learned as its logarithm."""

    init: PositiveFloat = Field(default=1 / 0.07, description="its initial value")
    learn: bool = True
    max: PositiveFloat = Field(default=100.0, description="its upper limit, where an update that passes it is put back")
    min: PositiveFloat | None = Field(
        default=None, description="its lower limit, likewise; null: 1, or none where init is below 1"
    )

    @model_validator(mode="after")
    def _begins_within_its_limits(self) -> Scale:
        if self.init > self.max:
            raise ValueError(f"init ({self.init:g}) is above max ({self.max:g}): lower init, or set max={self.init:g}")
        if self.init < self.least:
            raise ValueError(f"init ({self.init:g}) is below min ({self.min:g}): raise init, or set min={self.init:g}")
        return self

    @property
    def least(self) -> float:
        """The lower limit; 0 where there is none."""
        if self.min is not None:
            return self.min
        # products of three unit rows are small: the scale that Symile learns may begin, and go, below one
        return 1.0 if self.init >= 1 else 0.0

    @property
    def falls_to(self) -> float:
        """The limit that it can fall to, from above: 0 where it is not learned, has none, or begins there."""
        return self.least if self.learn and self.init > self.least else 0.0

    def parameter(self) -> nn.Parameter:
        """Make the parameter log s, of shape [1]."""
        return nn.Parameter(torch.tensor([math.log(self.init)]), requires_grad=self.learn)

    @torch.no_grad()
    def limit_(self, log_scale: nn.Parameter) -> None:
        """Put a parameter that an update has carried beyond a limit back to it, in place."""
        log_scale.clamp_(min=math.log(self.least) if self.least else None, max=math.log(self.max))


class ScaledObjective(Objective):
    """An objective with one factor s on cosines, which it learns as the parameter log_scale."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.limits = scale
        self.log_scale = scale.parameter()
        self.scale_falls_to = scale.falls_to

    def scale(self) -> Float[Tensor, 1]:
        """Return s = exp(log_scale)."""
        return self.log_scale.exp()

    def constrain(self) -> None:
        self.limits.limit_(self.log_scale)
