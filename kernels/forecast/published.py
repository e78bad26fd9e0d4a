"""What others measured and published, beside what this model says of it: the one factor between ideal and real time.

Each is taken apart as its authors describe it, on the GPU that they name: FLOPs of products at the data sheet's rate,
and passes over the logits at memory's. What they measured is longer, by a factor that is called efficiency here. The
forecast takes the geometric mean of all, and the least and the greatest as its range.

Traps
- Three points, of three programs on three GPUs, none of which is one of ours: the range is what they differ by, not a
  confidence interval.
- Library products are nearer to the upper end than the mean is, so a whole step is more likely too long than too short.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from kernels.forecast.gpus import A100, GH200, H100, Gpu


@dataclass(frozen=True)
class Published:
    """Describes a measurement of others."""

    name: str
    source: str
    gpu: Gpu
    flops: float
    """of matrix products"""
    num_bytes: float
    """of passes over logits that no product hides"""
    seconds: float

    @property
    def ideal(self) -> float:
        """Returns the seconds by data sheet."""
        return self.flops / self.gpu.flops + self.num_bytes / self.gpu.memory

    @property
    def efficiency(self) -> float:
        return self.ideal / self.seconds


def _projection(tflops: float) -> Published:
    # Rates, of any size: a second of work
    return Published(
        f"Liger, {tflops:.0f} TFLOP/s",
        "Liger-Kernel's README, fused linear cross entropy, CuTe DSL, bfloat16, H = 4096, V = 131072",
        H100, tflops * 1e12, 0.0, 1.0,
    )  # fmt: skip


PUBLISHED = (
    # S, G Y and G^T X by the library; between them a kernel reads S and writes G in the place of it, 2 bytes each
    Published(
        "siglip-kernel, 65,536 x 768",
        "README of siglip-kernel 0.1.2, bfloat16, forward and backward, one GPU: 46.9 ms",
        GH200, 6 * 65536**2 * 768, 4 * 65536**2, 46.9e-3,
    ),
    # One product for the sums; backward each side forms the logits again and multiplies with them
    Published(
        "memeff, 65,536 x 512",
        "README of memeff 0.3.1, bfloat16, forward and backward, A100: 201 ms",
        A100, 10 * 65536**2 * 512, 0.0, 201e-3,
    ),
    _projection((666 * 738) ** 0.5),
)  # fmt: skip
LIGER = (666.0, 738.0)
"""TFLOP/s of Liger over its shapes, of which the mean stands above"""

EFFICIENCY = prod(one.efficiency for one in PUBLISHED) ** (1 / len(PUBLISHED))
LEAST = min(one.efficiency for one in PUBLISHED)
GREATEST = max(*(one.efficiency for one in PUBLISHED), *(_projection(rate).efficiency for rate in LIGER))


def estimate(ideal: float) -> tuple[float, float, float]:
    """Returns (likely, shortest, longest) seconds for those of an ideal GPU."""
    return ideal / EFFICIENCY, ideal / GREATEST, ideal / LEAST
