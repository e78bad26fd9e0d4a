"""What GPUs can do in a clock or a second, as published, each number with its source.

Sources
- [guide] CUDA C++ Programming Guide, "Arithmetic Instructions", table of throughputs: results per clock and
  multiprocessor by compute capability: float32 add, multiply, multiply-add 64 (8.0) and 128 (8.6, 9.0, 10.0); compare,
  minimum, shift, logic and 32-bit integer add 64; reciprocal, exp2, log2 16; warp shuffle 32. Shared memory has 32
  banks of 4 bytes: 128 bytes a clock. Four schedulers issue one warp instruction each.
- [A100] NVIDIA A100 Tensor Core GPU Architecture, whitepaper of 2020: 108 multiprocessors, 1410 MHz, 312 TFLOP/s dense
  in half precision (2048 a clock and multiprocessor), 156 in TF32, L2 reads 5120 bytes a clock. 80 GB: 2039 GB/s by the
  data sheet, 40 GB: 1555.
- [H100] NVIDIA H100 Tensor Core GPU Architecture, whitepaper of 2022, SXM5: 132 multiprocessors, 989.4 TFLOP/s dense in
  half precision (4096 a clock and multiprocessor, at 1830 MHz), 494.7 in TF32, 3.35 TB/s. H200 (data sheet): the same
  with 4.8 TB/s; GH200 (data sheet) 4.0 TB/s with 96 GB.
- [B200] NVIDIA Blackwell data sheet, HGX B200: 2.25 PFLOP/s dense in half precision, 1.1 in TF32, 8 TB/s (HGX: 7.7);
  148 multiprocessors. FlashAttention-4 (Zadouri et al., 2026), section 2: 8192 FLOPs, 16 exponentials and 128 bytes of
  shared memory a clock and multiprocessor; the clock is what makes these 2.25 PFLOP/s.

Trap: nobody publishes the L2 rates of H100 and B200. H100 is taken to read as A100 does, 5120 bytes a clock, and B200,
which is two such dies, twice as much. Kernels that are bound by L2 there depend on this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Gpu:
    """Holds the rates of a GPU; `a clock` is a clock of one multiprocessor."""

    name: str
    arch: int
    """10 * major + minor"""
    processors: int
    clock: float
    """Hz, of boost"""
    tensor: int
    """FLOPs a clock of dense products in half precision; TF32 has half of it"""
    fp32: int
    """float32 results a clock"""
    memory: float
    """bytes a second"""
    l2: int
    """bytes a clock that L2 hands to all multiprocessors together"""
    special: int = 16
    """exp2, log2, reciprocals a clock"""
    integer: int = 64
    """comparisons, selections, integer additions, logic: results a clock"""
    shared: int = 128
    """bytes a clock of shared memory"""
    issued: int = 4
    """warp instructions a clock"""

    def tensor_rate(self, *, tf32: bool) -> float:
        """Returns the FLOPs a clock of tensor cores."""
        return self.tensor / 2 if tf32 else self.tensor

    @property
    def flops(self) -> float:
        """Returns the FLOP/s of half-precision products, as the data sheet has them."""
        return self.tensor * self.processors * self.clock


A100 = Gpu("A100", 80, 108, 1.41e9, tensor=2048, fp32=64, memory=2.039e12, l2=5120)
H100 = Gpu("H100", 90, 132, 1.83e9, tensor=4096, fp32=128, memory=3.35e12, l2=5120)
B200 = Gpu("B200", 100, 148, 1.856e9, tensor=8192, fp32=128, memory=8.0e12, l2=10240)
H200, GH200 = replace(H100, name="H200", memory=4.8e12), replace(H100, name="GH200", memory=4.0e12)

FORECAST = {gpu.arch: gpu for gpu in (A100, H100, B200)}
"""the GPU of each architecture that the compile report forecasts for"""


def find_gpu(device: str) -> Gpu | None:
    """Finds the GPU that a device's name, as torch has it, speaks of; None where its rates are not here."""
    words = device.replace(" ", "").upper()
    found = next((gpu for gpu in (GH200, H200, H100, A100, B200) if gpu.name in words), None)
    if found is A100:
        return replace(A100, memory=1.555e12) if "40GB" in words else A100
    # The cards for PCIe have fewer multiprocessors and lower clocks
    return None if "PCIE" in words or "NVL" in words else found
