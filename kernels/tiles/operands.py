"""What launches share: operands in the form the kernels read, scratch, library products, and constants by device.

Traps
- The host never reads a number that the device computes: a loss can be captured in a CUDA graph, and no step stalls.
- Rows of operands must be 16 bytes aligned and contiguous for the tensor memory accelerator: `operand` copies and pads.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from triton import cdiv, knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.tiles import configs
from kernels.tiles.configs import Config
from kernels.tiles.lse import merge

if TYPE_CHECKING:
    from jaxtyping import Float

INTERPRETED: bool = knobs.runtime.interpret
LOG2_E = 1.0 / math.log(2.0)


def config_for(kernel: str, x: Tensor, m: int, n: int) -> Config:
    """The configuration for launches of m x n on the device and in the type of the operand x."""
    arch, processors = device(x.device)
    return configs.choose(kernel, arch, x.element_size(), m, n, processors)


def constants(config: Config, x: Tensor, precision: str) -> dict[str, Any]:
    """The compile-time arguments that all kernels share."""
    return {
        "D": x.shape[1], "BM": config.block_m, "BN": config.block_n, "BK": config.block_k, "GROUP": config.group,
        "STRIPS": config.strips, "PRECISION": precision, "TMA": _has_tma(x.device), "UPCAST": INTERPRETED,
        "num_warps": config.warps, "num_stages": config.stages,
    }  # fmt: skip


def precision_of(dtype: torch.dtype) -> str:
    """How products of float32 are formed: as torch.set_float32_matmul_precision says, like the library's own."""
    return "ieee" if dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest" else "tf32"


def boost_of(*weights: Tensor) -> Float[Tensor, ""]:
    """A power of two that brings the largest weight to about 2^12: what float16 stores of G then spans 2^-26 of it."""
    largest = torch.stack([w.abs().amax() for w in weights]).amax()
    return (12 - largest.log2().ceil()).clamp(-100, 100).exp2()


def operand(z: Float[Tensor, "n d"], precision: str) -> Float[Tensor, "n padded"]:
    """z as the kernels read it: dimensions padded by zeros to whole blocks, rows contiguous and aligned; with the
    precision "tf32" rounded to TensorFloat-32 here, so that all that follows is exact for the same numbers."""
    if precision == "tf32":
        bits = z.contiguous().view(torch.int32)
        z = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    block = 128 // z.element_size()
    padding = -z.shape[1] % block
    if padding or not z.is_contiguous() or z.data_ptr() % 16:
        z = torch.nn.functional.pad(z, (0, padding)).contiguous()
    return z


def matmul(a: Tensor, b: Tensor, *, into: Float[Tensor, "m n"], add: bool) -> None:
    """into (+)= a b, accumulated and returned in float32 also where a and b are half precision."""
    if not a.is_cuda:  # the interpreter
        product = a.float() @ b.float()
        into.add_(product) if add else into.copy_(product)
        return
    if a.dtype == torch.float32:  # has no other accumulator to ask for
        torch.addmm(into, a, b, beta=float(add), out=into)
    elif add:
        torch.addmm(into, a, b, torch.float32, out=into)  # pyright: ignore[reportCallIssue] # stubs lack out_dtype
    else:
        torch.mm(a, b, torch.float32, out=into)


def run(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Launches a kernel; here alone its arguments are not what they are annotated as."""
    kernel[(programs,)](*arguments, **constants)


def merged(
    parts: Float[Tensor, "p n"],
    total: Float[Tensor, " n"],
    *,
    reference: Tensor | None = None,
    needed: Tensor | None = None,
) -> None:
    """Adds base-2 log-sum-exps of parts to those in total; not where the number `needed` on the device is 0. With a
    reference parts are sums of exp2(s - reference)."""
    num, length = parts.shape
    run(
        merge, cdiv(length, 64), parts, total, total if reference is None else reference,
        total if needed is None else needed, num, length,
        SHIFTED=reference is not None, ALWAYS=needed is None, BP=32, BL=64, num_warps=4,
    )  # fmt: skip


Blocks = TensorDescriptor | Tensor
"""what kernels.tiles.tile.blocks wants"""


def described(z: Tensor, *block: int) -> Blocks:
    """A tensor that is read or written by blocks of a shape, zeros and nothing beyond its end."""
    if not _has_tma(z.device):
        return z
    return TensorDescriptor(z, list(z.shape), list(z.stride()), list(block))


def _has_tma(of: torch.device) -> bool:
    return INTERPRETED or device(of)[0] >= 90


@cache
def device(of: torch.device) -> tuple[int, int]:
    """(architecture, multiprocessors)"""
    if INTERPRETED:
        return configs.INTERPRETER, 1
    about = torch.cuda.get_device_properties(of)
    return 10 * about.major + about.minor, about.multi_processor_count
