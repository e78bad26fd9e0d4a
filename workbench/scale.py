"""The factor on cosines that a loss learns: one over the temperature.

The trap: a clamp in the forward pass has no gradient beyond its limit, and the momentum of an optimizer carries a scale
there: it would stay for ever. So the parameter is put back after every update.
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
    max: PositiveFloat = Field(default=100.0, description="its limit, where it is put back to after an update")

    @model_validator(mode="after")
    def _begins_below_its_limit(self) -> Scale:
        if self.init > self.max:
            raise ValueError(f"init ({self.init:g}) is above max ({self.max:g}): lower init, or set max={self.init:g}")
        return self

    def parameter(self) -> nn.Parameter:
        """Make the parameter log s, of shape [1]."""
        return nn.Parameter(torch.tensor([math.log(self.init)]), requires_grad=self.learn)

    @torch.no_grad()
    def limit_(self, log_scale: nn.Parameter) -> None:
        """Put a parameter that an update has carried beyond the limit back to it, in place.

        A clamp in the forward pass would have no gradient beyond its limit: a scale that an optimizer's momentum has
        carried there would stay for ever. open_clip and ITO clamp the parameter, too.
        """
        log_scale.clamp_(max=math.log(self.max))


class ScaledObjective(Objective):
    """An objective with one factor s on cosines, which it learns as the parameter log_scale."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.limits = scale
        self.log_scale = scale.parameter()

    def scale(self) -> Float[Tensor, 1]:
        """Return s = exp(log_scale)."""
        return self.log_scale.exp()

    def constrain(self) -> None:
        self.limits.limit_(self.log_scale)
