"""What a recipe would cost, without data, weights or time: its parts and one training step under fake tensors.

Numbers are counted, not estimated, where they can be: parameters from the modules, FLOPs by torch's counter over forward
and backward, activations from what autograd actually saves. Time is not predicted here: it depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch._subclasses.fake_tensor import FakeTensorMode

from workbench.build import Parts, build_parts
from workbench.recipe import Recipe

PROBE = 8
"""samples of the fake step; FLOPs and activations are per sample, so a few suffice"""


@dataclass(frozen=True)
class Cost:
    """Counted costs of a recipe."""

    parameters: dict[str, int]
    """by part; training only ones under `fusion` and `objective`"""
    flops_per_sample: float
    """forward and backward, of the model; the loss grows with the batch and is given apart"""
    loss_flops: float
    """of one step at the recipe's batch: 8 M N D a term (kernels/README.md)"""
    state_bytes: int
    """weights, gradients and AdamW's two moments in fp32"""
    activation_bytes_per_sample: float

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    def memory(self, samples: int) -> float:
        """Bytes for states plus the activations of `samples` samples held at once."""
        return self.state_bytes + self.activation_bytes_per_sample * samples


def assemble(recipe: Recipe) -> Parts:
    """The recipe's parts on fake tensors: checks every width without allocating one. Raises ValueError."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return build_parts(recipe)
