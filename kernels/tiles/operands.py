"""What launches share: operands in the form the kernels read, scratch, library products, and constants by device.

Traps
- The host never reads a number that the device computes: a loss can be captured in a CUDA graph, and no step stalls.
- Rows of operands must be 16 bytes aligned and contiguous for the tensor memory accelerator: `prepare_operand` copies
  and pads.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import torch
import triton.language as tl
from torch import Tensor
from triton import cdiv, knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.tiles import configs
from kernels.tiles.configs import Config
from kernels.tiles.lse import merge

if TYPE_CHECKING:
    from jaxtyping import Float
    from triton.runtime.jit import JITFunction

INTERPRETED: bool = knobs.runtime.interpret
LOG2_E = 1.0 / math.log(2.0)

Blocks = TensorDescriptor | Tensor
"""what kernels.tiles.tile.as_blocks takes"""


def choose_config(kernel: str, x: Tensor, m: int, n: int) -> Config:
    """Chooses the tile sizes for launches of m x n on the device and in the type of the operand x."""
    arch, processors = look_up_device(x.device)
    return configs.choose(kernel, arch, x.element_size(), m, n, processors)


def make_constants(config: Config, x: Tensor, precision: str) -> dict[str, int | bool | str]:
    """Makes the compile-time arguments that all kernels share."""
    return {
        "D": x.shape[1], "BM": config.block_m, "BN": config.block_n, "BK": config.block_k, "GROUP": config.group,
        "STRIPS": config.strips, "PRECISION": precision, "TMA": _has_tma(x.device), "UPCAST": INTERPRETED,
        "num_warps": config.warps, "num_stages": config.stages,
    }  # fmt: skip


def choose_precision(dtype: torch.dtype) -> str:
    """Chooses how products of float32 are formed: as torch.set_float32_matmul_precision says, like the library's."""
    return "ieee" if dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest" else "tf32"


def choose_boost(*weights: Tensor) -> Float[Tensor, ""]:
    """Chooses a power of two that brings the largest weight to about 2^12.

    G is a weight times a probability. float16 has full precision above 2^-14, then 2^-26 of the largest weight.
    Multiplying by a power of two rounds nothing, so bfloat16 and float32 do not notice.
    """
    largest = torch.stack([w.abs().amax() for w in weights]).amax()
    return (12 - largest.log2().ceil()).clamp(-100, 100).exp2()


def prepare_operand(z: Float[Tensor, "n d"], precision: str) -> Float[Tensor, "n padded"]:
    """Returns z as the kernels read it: dimensions padded by zeros to whole blocks, rows contiguous and aligned.

    With the precision "tf32" it is rounded to TensorFloat-32 here, so that all that follows is exact for the same
    numbers. The tensor cores would truncate, and the positives' logits would be those of other features.
    """
    if precision == "tf32":
        # To the nearest, ties to even, of the 10 bits of mantissa that TensorFloat-32 has of float32's 23
        bits = z.contiguous().view(torch.int32)
        z = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    # A block of depth is 128 bytes, and the smallest configurations' are shorter divisors of it
    block = 128 // z.element_size()
    padding = -z.shape[1] % block
    if padding or not z.is_contiguous() or z.data_ptr() % 16:
        z = torch.nn.functional.pad(z, (0, padding)).contiguous()
    return z


def matmul(a: Tensor, b: Tensor, *, into: Float[Tensor, "m n"], add: bool) -> None:
    """Computes into = a b, or into += a b, summed and returned in float32 also where a and b are half precision.

    dY is a sum over chunks: rounded to bfloat16 after each, it would lose a little of every chunk.
    """
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


def launch(
    kernel: JITFunction, programs: int, *arguments: Blocks | float, **constants: int | bool | str | tl.constexpr
) -> None:
    """Launches so many programs of a kernel."""
    kernel[(programs,)](*arguments, **constants)


def merge_parts(
    parts: Float[Tensor, "p n"],
    total: Float[Tensor, " n"],
    *,
    reference: Tensor | None = None,
    needed: Tensor | None = None,
) -> None:
    """Adds base-2 log-sum-exps of parts to those in total; not where the number `needed` on the device is 0.

    With a reference, parts are sums of exp2(s - reference).
    """
    num, length = parts.shape
    launch(
        merge, cdiv(length, 64), parts, total, total if reference is None else reference,
        total if needed is None else needed, num, length,
        SHIFTED=reference is not None, ALWAYS=needed is None, BP=32, BL=64, num_warps=4,
    )  # fmt: skip


def describe(z: Tensor, *block: int) -> Blocks:
    """Describes a tensor that is read or written by blocks of a shape, zeros and nothing beyond its end."""
    if not _has_tma(z.device):
        return z
    return TensorDescriptor(z, list(z.shape), list(z.stride()), list(block))


def _has_tma(device: torch.device) -> bool:
    return INTERPRETED or look_up_device(device)[0] >= 90


@cache
def look_up_device(device: torch.device) -> tuple[int, int]:
    """Returns (architecture, multiprocessors) of a device."""
    if INTERPRETED:
        return configs.INTERPRETER, 1
    about = torch.cuda.get_device_properties(device)
    return 10 * about.major + about.minor, about.multi_processor_count
